/** Generation with the cache and the scores on a device: the same texts, little on the host, nothing left behind. */
import { deepEqual, equal, ok, rejects } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, textFacts, withSettings } from '../../graph-rewrite/index.js';
import type { Model } from '../../graph-rewrite/ir/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { buildLlama } from '../../models/build-llama.js';
import { presets } from '../../models/llama-config.js';
import { randomSource } from '../../models/weights.js';
import { Generator, InferenceSession, Tensor } from '../../native/js/index.js';
import { TopOnDevice } from '../../native/js/top-on-device.js';
import {
  describeTextModel,
  generate,
  TextSession,
  type GenerateOptions,
  type ModelSession,
} from '../../native/js/lm/index.js';
import { FakeDevice } from '../helpers/fake-device.js';

const quiet = { intraOpNumThreads: 1, logSeverityLevel: 3 as const };
const prompts = [[7, 200, 31], [5], [9, 14, 77, 130, 2, 250, 41]];
const { vocab } = presets['tiny']!;

function model(attention: 'gqa' | 'decomposed', settings?: readonly string[]): Model {
  const made = buildLlama(presets['tiny']!, randomSource(3), { attention });
  if (!settings) return made;
  const analysis = analyze(made);
  applyPlan(made, makePlan(analysis, undefined, withSettings(findRecipe('kv4'), settings), made), analysis);
  return made;
}

const models: readonly { title: string; make: () => Model; fixed: boolean }[] = [
  { title: 'a float cache that grows', make: () => model('decomposed'), fixed: false },
  { title: 'a float cache in one buffer', make: () => model('gqa'), fixed: true },
  { title: 'a quantized cache that grows', make: () => model('gqa', []), fixed: false },
  { title: 'a quantized cache in place', make: () => model('gqa', ['kv.form=in_place']), fixed: true },
];

describe('native/generator on a device', () => {
  const top = new TopOnDevice({});
  after(() => top.release());

  async function open(make: () => Model, cudaGraph = false) {
    const made = make();
    const inner = await InferenceSession.create(serializeModel(made), quiet);
    const device = await FakeDevice.over(inner, cudaGraph);
    const described = describeTextModel(device, textFacts(made));
    const text = new TextSession(device, described, top.find);
    const host = new TextSession(inner, described);
    const both = async (options: Partial<GenerateOptions> = {}) => {
      const all = { prompts, maxNewTokens: 9, ...options };
      const [expected, actual] = [await generate(host, all), await generate(text, all)];
      deepEqual(
        actual.texts.map(({ ids }) => ids),
        expected.texts.map(({ ids }) => ids),
      );
    };
    return { device, text, both };
  }

  for (const { title, make, fixed } of models) {
    it(`${title}: the texts of the host, and no memory left`, async () => {
      const { device, text, both } = await open(make);
      await both();
      equal(device.downloaded, 0, 'the ids were chosen on the device');
      equal(device.live, 0);
      await both({ temperature: 1, topK: 5, topP: 0.9, seed: 4 });
      equal(device.downloaded, 0, 'so were those that it draws from');
      await both({ temperature: 1, seed: 4 });
      // A prompt of three texts has one row of scores for each on the way; so has every step.
      equal(device.downloaded, 9 * prompts.length * vocab);
      equal(device.live, 0);
      text.dispose();
      await device.release();
    });

    if (!fixed) continue;
    it(`${title}: steps replay one captured graph`, async () => {
      const { device, text, both } = await open(make, true);
      await both({ capacity: 100 });
      await both({ capacity: 100, temperature: 1 });
      deepEqual([...device.runs.keys()], ['-1', '1'], 'the second batch uses the buffers of the first');
      deepEqual([...device.runs.values()], [2, 16]);
      const kept = device.live;
      ok(kept > 0, 'they are kept for it');
      await both({ prompts: [[1, 2]] });
      ok(device.runs.has('2'), 'another batch size has a graph of its own');
      equal(device.live, kept, 'and takes the place of the first');
      text.dispose();
      equal(device.live, 0);
      await device.release();
    });

    it(`${title}: a second batch with long prompts takes the buffers of the first`, async () => {
      const { device, text, both } = await open(make, true);
      const long = prompts.map((ids) => Array.from({ length: 20 }, (_, i) => ids[i % ids.length]!));
      await both({ prompts: long, capacity: 100, tokensPerRun: 15 });
      await both({ prompts: long, capacity: 100, tokensPerRun: 15 });
      deepEqual([...device.runs.keys()], ['-1', '1']);
      text.dispose();
      await device.release();
    });
  }

  it('a session that fills no given outputs has its cache copied', async () => {
    const made = model('gqa', ['kv.form=in_place']);
    const inner = await InferenceSession.create(serializeModel(made), quiet);
    const described = describeTextModel(inner, textFacts(made));
    const { inputNames, outputNames, inputMetadata, outputMetadata } = inner;
    const plain: ModelSession = {
      ...{ inputNames, outputNames, inputMetadata, outputMetadata },
      run: (feeds, fetches) => inner.run(feeds, Object.keys(fetches)),
      release: () => inner.release(),
    };
    const [expected, actual] = [
      await generate(new TextSession(inner, described), { prompts, maxNewTokens: 9 }),
      await generate(new TextSession(plain, described), { prompts, maxNewTokens: 9 }),
    ];
    deepEqual(
      actual.texts.map(({ ids }) => ids),
      expected.texts.map(({ ids }) => ids),
    );
    await inner.release();
  });

  it('a run that fails or is aborted leaves no memory', async () => {
    const { device, text } = await open(() => model('gqa', ['kv.form=in_place']));
    const abort = new AbortController();
    const { texts } = await generate(text, { prompts, signal: abort.signal, onToken: () => abort.abort() });
    ok(texts.every(({ ids, stopped }) => ids.length === 1 && stopped === 'aborted'));
    equal(device.live, 0);
    await device.release();
    await rejects(generate(text, { prompts }), /it was released/);
    equal(device.live, 0);
  });

  it('a captured graph needs a cache that stays', async () => {
    const { device } = await open(() => model('decomposed'), true);
    await rejects(Generator.create(device), /cudaGraph: the cache of this model grows, expected one in place/);
    await device.release();
  });

  it('finds the largest scores, the lower id of equal ones first, in float32 and float16', async () => {
    const rows = [
      [1, 5, 5, -2],
      [-3, -1, -2, -1],
    ];
    const scores = new Tensor('float32', Float32Array.from(rows.flat()), [1, 2, 4]);
    deepEqual(await top.find(scores, 1), { ids: [1, 1], scores: Float32Array.of(5, -1) });
    deepEqual(await top.find(scores, 3), { ids: [1, 2, 0, 1, 3, 2], scores: Float32Array.of(5, 5, 1, -1, -1, -2) });
    const half = new Tensor('float16', Uint16Array.of(0x3c00, 0x4000, 0x4000, 0xc000) as never, [1, 1, 4]);
    deepEqual(await top.find(half, 2), { ids: [1, 2], scores: Float32Array.of(2, 2) });
  });
});
