/**
 * Rewritten models really run. Eight-bit codes leave about 40 dB on these random networks, so a channel in a wrong place (0 dB) cannot
 * hide; orders come from random statistics. Four-bit thresholds are a little below what the networks give.
 */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import {
  applyPlan,
  findRecipe,
  loadModel,
  makePlan,
  saveModel,
  withSettings,
  type Recipe,
} from '../../graph-rewrite/index.js';
import type { Model } from '../../graph-rewrite/ir/index.js';
import type { Feeds } from '../../graph-rewrite/lm/session.js';
import { InferenceSession } from '../../native/js/index.js';
import { temporaryFolder } from '../helpers/files.js';
import { randomStats } from '../helpers/stats.js';
import { sqnr, zooFeeds, zooNames, zooPath, type FeedSizes } from '../helpers/zoo.js';

type Outputs = Awaited<ReturnType<InferenceSession['run']>>;

async function runFile(path: string, feeds: Feeds): Promise<Outputs> {
  const session = await InferenceSession.create(path, { intraOpNumThreads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

async function runRewritten(model: Model, recipe: Recipe, path: string, feeds: Feeds): Promise<Outputs> {
  const analysis = analyze(model);
  applyPlan(model, makePlan(analysis, randomStats(analysis), recipe, model), analysis);
  await saveModel(model, path);
  return runFile(path, feeds);
}

const floats = (outputs: Outputs, name: string) => outputs[name]!.data as Float32Array;

interface Case {
  readonly name: string;
  readonly recipe: Recipe;
  /** Least signal to noise of the logits in dB, by model family. */
  readonly decibels: Readonly<Record<'llama' | 'gpt2' | 'opt' | 'bert', number>>;
  readonly sizes?: FeedSizes;
}

const w8a8 = findRecipe('w8a8');
const atom = withSettings(findRecipe('atom-w4a4'), ['weight.rounding=rtn']);
const eightBits = { llama: 38, gpt2: 38, opt: 36, bert: 60 };
const cases: readonly Case[] = [
  { name: 'w8a8', recipe: w8a8, decibels: eightBits },
  {
    name: 'w8a8 in global order',
    recipe: withSettings(w8a8, ['outliers.channels=16', 'oReorder=global']),
    decibels: eightBits,
  },
  // The value cache holds channels in the new order, so it cannot come from the float model: start with an empty one.
  {
    name: 'w8a8 in order inside heads',
    recipe: withSettings(w8a8, ['outliers.channels=16', 'oReorder=head']),
    decibels: eightBits,
    sizes: { past: 0 },
  },
  {
    name: 'w8a8 without merges',
    recipe: withSettings(w8a8, ['merge.qkv=false', 'merge.gateUp=false']),
    decibels: eightBits,
  },
  // Likewise: a value cache holds channels divided by their factors.
  {
    name: 'smoothquant-w8a8 at all inputs, sorted',
    recipe: withSettings(findRecipe('smoothquant-w8a8'), ['smooth.at=all', 'outliers.channels=16']),
    // Factors from random statistics make errors larger, not smaller; a factor in a wrong place leaves 0 dB.
    decibels: { llama: 36, gpt2: 35, opt: 26, bert: 50 },
    sizes: { past: 0 },
  },
  { name: 'w8a8 with q, k and v merged', recipe: withSettings(w8a8, ['merge.qkv=true']), decibels: eightBits },
  {
    name: 'llm-int8 with many float columns, q, k and v merged',
    recipe: withSettings(findRecipe('llm-int8'), ['activation.threshold=1.5', 'merge.qkv=true']),
    decibels: eightBits,
  },
  {
    name: 'rptq-w4a8, rounded to nearest',
    recipe: withSettings(findRecipe('rptq-w4a8'), ['weight.rounding=rtn', 'activation.groupSize=16']),
    decibels: { llama: 14, gpt2: 15, opt: 12, bert: 41 },
  },
  { name: 'w4a16', recipe: findRecipe('w4a16'), decibels: { llama: 15, gpt2: 18, opt: 14, bert: 42 } },
  {
    name: 'the weights of atom-w4a4 with float activations',
    recipe: withSettings(atom, ['activation.format=none', 'outliers=none']),
    decibels: { llama: 14, gpt2: 16, opt: 13, bert: 40 },
  },
  { name: 'atom-w4a4', recipe: atom, decibels: { llama: 15, gpt2: 16, opt: 13, bert: 42 } },
  { name: 'w4a4', recipe: findRecipe('w4a4'), decibels: { llama: 13, gpt2: 13, opt: 11, bert: 40 } },
];

describe('passes: rewritten models run', () => {
  const folder = temporaryFolder();
  for (const zoo of zooNames) {
    const family = zoo.split('_')[0] as keyof Case['decibels'];
    for (const { name, recipe, decibels, sizes } of cases) {
      it(`${zoo} ${name}: at least ${decibels[family]} dB`, async () => {
        const model = loadModel(zooPath(zoo));
        const feeds = zooFeeds(model, sizes);
        const expected = await runFile(zooPath(zoo), feeds);
        const actual = await runRewritten(model, recipe, folder.path('model.onnx'), feeds);
        for (const output of Object.keys(expected)) deepEqual(actual[output]!.dims, expected[output]!.dims, output);
        const measured = sqnr(floats(expected, 'logits'), floats(actual, 'logits'));
        ok(measured >= decibels[family], `${measured.toFixed(1)} dB`);
      });
    }
  }

  it('the four exports of one LLaMA give one result', async () => {
    const results = [];
    for (const zoo of ['llama_kv_ts14', 'llama_kv_ts17', 'llama_kv_dynamo18', 'llama_kv_dynamo23']) {
      const model = loadModel(zooPath(zoo));
      const feeds = zooFeeds(model);
      results.push(floats(await runRewritten(model, atom, folder.path(`${zoo}.onnx`), feeds), 'logits'));
    }
    // Codes are exact; what differs is the order of float sums in attention.
    for (const other of results.slice(1)) ok(sqnr(results[0]!, other) > 60);
  });

  it('batch 1 and no tokens, as loops may ask', async () => {
    const model = loadModel(zooPath('llama_kv_dynamo18'));
    const path = folder.path('model.onnx');
    await runRewritten(model, atom, path, zooFeeds(model, { batch: 1, tokens: 1, past: 0 }));
    const empty = await runFile(
      path,
      zooFeeds(loadModel(zooPath('llama_kv_dynamo18')), { batch: 1, tokens: 0, past: 2 }),
    );
    equal(floats(empty, 'logits').length, 0);
  });
});
