/**
 * Models whose cache is quantized really run: a prompt, then single tokens, each from the cache of the run before. Eight-bit caches
 * leave some 50 dB, so a key in a wrong place or a wrong angle (0 dB) cannot hide.
 */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, loadModel, makePlan, saveModel, withSettings } from '../../graph-rewrite/index.js';
import type { Model } from '../../graph-rewrite/ir/index.js';
import { perplexity, textFacts } from '../../graph-rewrite/lm/index.js';
import type { Feeds } from '../../graph-rewrite/lm/session.js';
import type { PlanInput } from '../../graph-rewrite/plan/plan.js';
import { readCaches } from '../../graph-rewrite/passes/cache-metadata.js';
import { buildLlama, type LlamaOptions } from '../../models/build-llama.js';
import { presets } from '../../models/llama-config.js';
import { randomSource } from '../../models/weights.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { fromFloat16Array } from '../../ops/common/float16.js';
import { temporaryFolder } from '../helpers/files.js';
import { randomStats } from '../helpers/stats.js';
import { sqnr, zooPath } from '../helpers/zoo.js';

const ids = [1, 200, 3, 77, 5, 6, 130, 8, 9, 40];
const batch = 2;

/** @param capacity tokens that a cache in place has room for; 0 for caches that grow */
function feed(
  input: InferenceSession['inputMetadata'][number],
  start: number,
  count: number,
  capacity: number,
): Tensor {
  if (!input.isTensor) throw new Error(`input ${input.name} is no tensor`);
  const int64 = (width: number, value: (b: number, i: number) => number) => {
    const values = Array.from({ length: batch * width }, (_, i) => BigInt(value(Math.floor(i / width), i % width)));
    return new Tensor('int64', BigInt64Array.from(values), [batch, width]);
  };
  if (input.name === 'input_ids') return int64(count, (b, i) => (ids[start + i]! + 11 * b) % 256);
  if (input.name === 'position_ids') return int64(count, (_, i) => start + i);
  if (input.name === 'attention_mask') return int64(capacity || start + count, (_, i) => (i < start + count ? 1 : 0));
  const [, heads, , size] = input.shape;
  const elements = batch * Number(heads) * capacity * Number(size);
  const types = { uint8: Uint8Array, float16: Uint16Array, float32: Float32Array };
  // What a buffer holds before it is used must not matter.
  const data = new types[input.type as keyof typeof types](elements).fill(0x7f);
  return new Tensor(input.type as 'uint8', data as Uint8Array, [batch, Number(heads), capacity, Number(size)]);
}

/** Logits of all tokens, run in pieces. */
async function logitsOf(path: string, pieces: readonly number[], capacity = 0): Promise<Float32Array> {
  const session = await InferenceSession.create(path, { intraOpNumThreads: 1, logSeverityLevel: 3 });
  const rows: number[] = [];
  let present: Readonly<Record<string, Tensor>> = {};
  let start = 0;
  for (const count of pieces) {
    const feeds: Feeds = {};
    for (const input of session.inputMetadata)
      feeds[input.name] =
        present[input.name.replace('past_key_values', 'present')] ?? feed(input, start, count, capacity);
    present = (await session.run(feeds)) as Record<string, Tensor>;
    const { type, data } = present['logits']!;
    rows.push(...(type === 'float16' ? fromFloat16Array(data as unknown as Uint16Array) : (data as Float32Array)));
    start += count;
  }
  await session.release();
  return Float32Array.from(rows);
}

const tiny = (options: LlamaOptions) => () => buildLlama(presets['tiny']!, randomSource(3), options);
const zoo = (name: string) => () => loadModel(zooPath(name));

/** Models, the caches that are taken over, and how many attentions they have. */
const models: readonly { title: string; make: () => Model; taken: number; all: number; decibels?: number }[] = [
  { title: 'GroupQueryAttention', make: tiny({ attention: 'gqa' }), taken: 2, all: 2 },
  { title: 'GroupQueryAttention in float16', make: tiny({ attention: 'gqa', dtype: 'float16' }), taken: 2, all: 2 },
  { title: 'decomposed', make: tiny({ attention: 'decomposed' }), taken: 2, all: 2 },
  { title: 'MultiHeadAttention', make: tiny({ attention: 'mha' }), taken: 2, all: 2 },
  { title: 'Attention', make: tiny({ attention: 'onnx' }), taken: 2, all: 2 },
  { title: 'Attention in float16', make: tiny({ attention: 'onnx', dtype: 'float16' }), taken: 2, all: 2 },
  { title: 'llama_kv_dynamo18', make: zoo('llama_kv_dynamo18'), taken: 2, all: 2 },
  { title: 'llama_kv_dynamo23', make: zoo('llama_kv_dynamo23'), taken: 2, all: 2 },
  { title: 'llama_kv_ts14', make: zoo('llama_kv_ts14'), taken: 2, all: 2 },
  { title: 'llama_kv_ts17', make: zoo('llama_kv_ts17'), taken: 2, all: 2 },
  { title: 'gpt2_kv_dynamo18', make: zoo('gpt2_kv_dynamo18'), taken: 2, all: 2 },
  { title: 'gpt2_kv_ts17', make: zoo('gpt2_kv_ts17'), taken: 2, all: 2 },
  { title: 'opt_kv_dynamo18', make: zoo('opt_kv_dynamo18'), taken: 2, all: 2 },
  { title: 'opt_kv_ts17', make: zoo('opt_kv_ts17'), taken: 2, all: 2 },
];

describe('passes: a quantized cache', () => {
  const folder = temporaryFolder();

  async function rewritten(make: () => Model, settings: readonly string[], recipe = 'kv4'): Promise<Model> {
    const model = make();
    const analysis = analyze(model);
    applyPlan(model, makePlan(analysis, undefined, withSettings(findRecipe(recipe), settings), model), analysis);
    await saveModel(model, folder.path('small.onnx'), { force: true });
    return model;
  }

  for (const { title, make, taken, all, decibels = 38 } of models) {
    it(`${title}: ${taken} of ${all} caches, at least ${decibels} dB`, async () => {
      await saveModel(make(), folder.path('float.onnx'));
      const expected = await logitsOf(folder.path('float.onnx'), [7, 1, 1, 1]);
      for (const rope of ['pre', 'post']) {
        const model = await rewritten(make, ['kv.bits=8', `kv.rope=${rope}`]);
        equal(readCaches(model).length, 2 * taken);
        const actual = await logitsOf(folder.path('small.onnx'), [7, 1, 1, 1]);
        const measured = sqnr(expected, actual);
        ok(measured >= decibels, `${rope}: ${measured.toFixed(1)} dB`);
      }
    });
  }

  it('keeps names and ranks of cache inputs and outputs, and says in the metadata what they are', async () => {
    const make = tiny({ attention: 'gqa' });
    const before = make();
    const model = await rewritten(make, []);
    const names = (values: readonly { name: string }[]) => values.map(({ name }) => name);
    const isNew = (name: string) => name.endsWith('_param');
    deepEqual(
      names(model.graph.inputs).filter((name) => !isNew(name)),
      names(before.graph.inputs),
    );
    const [first] = readCaches(model);
    const { heads, kvHeads, headDim } = presets['tiny']!;
    ok(heads >= kvHeads);
    deepEqual(first, {
      ...{ layer: 0, kind: 'key', bits: 4, rope: 'pre', form: 'growing' },
      ...{ past: 'past_key_values.0.key', present: 'present.0.key' },
      ...{ past_param: 'past_key_values.0.key_param', present_param: 'present.0.key_param' },
    });
    const input = model.graph.inputs.find(({ name }) => name === first!.past)!;
    deepEqual([input.dtype, input.shape?.[1], input.shape?.[3]], ['uint8', kvHeads, headDim / 2]);
  });

  for (const { title, make, taken } of models) {
    it(`${title}: attention quantizes for the layer behind it, as a Quantize would bit for bit`, async () => {
      const recipe = withSettings(findRecipe('atom-w4a4kv4'), ['weight.rounding=rtn']);
      const plans = ['fuse-attention', 'quantize'].map((decision) => (input: PlanInput): PlanInput => {
        if (input.decision !== 'fuse-attention') return input;
        const { producer, ...rest } = input;
        return decision === 'quantize' ? { ...rest, decision } : { ...rest, producer: producer! };
      });
      const logits = [];
      for (const edit of plans) {
        const model = make();
        const analysis = analyze(model);
        const plan = makePlan(analysis, randomStats(analysis), recipe, model);
        equal(plan.inputs.filter(({ decision }) => decision === 'fuse-attention').length, taken);
        applyPlan(model, { ...plan, inputs: plan.inputs.map(edit) }, analysis);
        await saveModel(model, folder.path('small.onnx'), { force: true });
        logits.push(await logitsOf(folder.path('small.onnx'), [5, 1]));
      }
      deepEqual(logits[0], logits[1]);
    });
  }

  for (const { title, make } of models) {
    it(`${title}: stays in place if the recipe says so, and gives the same logits bit for bit`, async () => {
      await rewritten(make, []);
      const growing = await logitsOf(folder.path('small.onnx'), [7, 1, 1, 1]);
      const model = await rewritten(make, ['kv.form=in_place']);
      const [entry] = readCaches(model);
      const [past, present] = [entry!.past, entry!.present].map((name) =>
        [...model.graph.inputs, ...model.graph.outputs].find((value) => value.name === name),
      );
      equal(entry!.form, 'in_place');
      deepEqual(present!.shape!.slice(1), past!.shape!.slice(1));
      equal(past!.shape![2], 'kv_capacity');
      deepEqual(await logitsOf(folder.path('small.onnx'), [7, 1, 1, 1], 16), growing);
    });
  }

  it('has the same perplexity in place', async () => {
    const measured = [];
    for (const form of ['growing', 'in_place']) {
      const model = await rewritten(tiny({ attention: 'decomposed' }), [`kv.form=${form}`]);
      const session = await InferenceSession.create(folder.path('small.onnx'), { logSeverityLevel: 3 });
      const options = { length: 8, windows: 3, facts: textFacts(model) };
      measured.push(
        await perplexity(
          session,
          Int32Array.from({ length: 40 }, (_, i) => (i * 37) % 200),
          options,
        ),
      );
      await session.release();
    }
    equal(measured[0]!.nll, measured[1]!.nll);
  });

  it('goes together with quantized layers, merged or not', async () => {
    for (const merge of ['true', 'false']) {
      const make = tiny({ attention: 'decomposed' });
      await saveModel(make(), folder.path(`float-${merge}.onnx`));
      await rewritten(make, ['kv.bits=8', `merge.qkv=${merge}`], 'w8a8');
      const [expected, actual] = await Promise.all(
        [`float-${merge}.onnx`, 'small.onnx'].map((file) => logitsOf(folder.path(file), [4, 6])),
      );
      const measured = sqnr(expected!, actual!);
      ok(measured >= 30, `${measured.toFixed(1)} dB`);
    }
  });

  it('gives one piece and single tokens the same logits', async () => {
    await rewritten(tiny({ attention: 'gqa' }), []);
    const [whole, single] = await Promise.all(
      [[10], Array<number>(10).fill(1)].map((pieces) => logitsOf(folder.path('small.onnx'), pieces)),
    );
    ok(sqnr(byToken(whole!, 10, 1), byToken(single!, 1, 10)) > 90);
  });
});

/** [runs, batch, tokens, vocabulary] → [batch, tokens of all runs, vocabulary] */
function byToken(logits: Float32Array, tokens: number, runs: number): Float32Array {
  const width = logits.length / (batch * tokens * runs);
  const sorted = new Float32Array(logits.length);
  for (let run = 0; run < runs; run++)
    for (let b = 0; b < batch; b++) {
      const from = (run * batch + b) * tokens * width;
      sorted.set(logits.subarray(from, from + tokens * width), (b * tokens * runs + run * tokens) * width);
    }
  return sorted;
}
