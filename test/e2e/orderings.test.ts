/**
 * The orders that papers claim, on the trained model with injected outliers: each recipe rewritten and really run on the same few windows.
 * Perplexity, so less is better. Statistics are collected once.
 */
import assert from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { calibrate, textFeeds, type FeedList } from '../../graph-rewrite/calibrate/index.js';
import {
  applyPlan,
  findRecipe,
  loadModel,
  makePlan,
  roundWeights,
  saveModel,
  withSettings,
  type StatsByValue,
} from '../../graph-rewrite/index.js';
import { loadTokenizer, perplexity, readTokens } from '../../graph-rewrite/lm/index.js';
import { InferenceSession } from '../../native/js/index.js';
import { loadNative } from '../../native/js/load.js';
import { createOrtSession } from '../helpers/ort.js';
import { calibrationText, evalTokens, ModelFolder, tokenizer } from './bookworm.js';

const windows = 8;
const calibrationWindows = 8;

describe('e2e: orders of the papers, on injected outliers', function () {
  this.timeout(240_000);
  const folder = new ModelFolder();
  const tokens = readTokens(evalTokens);
  let path: string;
  let feeds: FeedList;
  let stats: StatsByValue;
  let float: number;
  const known = new Map<string, Promise<number>>();

  async function evaluate(file: string): Promise<number> {
    const session = await InferenceSession.create(file);
    try {
      return (await perplexity(session, tokens, { windows, length: 512, at: evalTokens })).perplexity;
    } finally {
      await session.release();
    }
  }

  async function rewriteAndRun(recipe: string, settings: readonly string[]): Promise<number> {
    const model = loadModel(path);
    const analysis = analyze(model);
    const plan = makePlan(analysis, stats, withSettings(findRecipe(recipe), settings), model);
    const rounded = plan.predicted.rounding
      ? await roundWeights({
          ...{ load: () => loadModel(path), analysis, plan, feeds, createSession: createOrtSession },
          ...{ native: loadNative().addon, folder: `${folder.path}/rounding` },
        })
      : undefined;
    applyPlan(model, plan, analysis, rounded?.weights);
    const output = `${folder.path}/rewritten.onnx`;
    await saveModel(model, output, { force: true });
    return evaluate(output);
  }

  /** Perplexity of the model under a recipe, measured once. */
  function of(recipe: string, ...settings: string[]): Promise<number> {
    const key = [recipe, ...settings].join(' ');
    let made = known.get(key);
    if (!made) known.set(key, (made = rewriteAndRun(recipe, settings)));
    return made;
  }

  const text = (values: readonly number[]): string => values.map((value) => value.toFixed(3)).join(', ');

  before(async () => {
    path = await folder.float('dynamo', 'injected');
    const model = loadModel(path);
    feeds = textFeeds(model, calibrationText, loadTokenizer(tokenizer), { count: calibrationWindows });
    stats = await calibrate({
      ...{ model, analysis: analyze(model), feeds, createSession: createOrtSession, samples: true },
    });
    float = await evaluate(path);
  });
  after(() => folder.remove());

  it('8 bits: INT8 per token > FP8 per token; SmoothQuant at norms, at all inputs; LLM.int8() within 0.5 % of its weights', async () => {
    const int8 = await of('w8a8');
    const fp8 = await of('w8a8', 'activation.format=e4m3');
    const atNorms = await of('smoothquant-w8a8');
    const atAll = await of('smoothquant-w8a8', 'smooth.at=all');
    const searched = await of('smoothquant-w8a8', 'smooth.at=all', 'smooth.alpha=search');
    const mixed = await of('llm-int8');
    const weights = await of('w8a8', 'activation.format=none');
    const all = text([float, int8, fp8, atNorms, atAll, searched, mixed, weights]);
    assert.ok(int8 > 1.1 * float, all);
    assert.ok(fp8 < 0.97 * int8, all);
    assert.ok(atNorms < 0.97 * int8 && atAll < 0.97 * atNorms, all);
    assert.ok(Math.max(atAll, searched) < 1.005 * float, all);
    // It multiplies outliers by 8-bit weights, which are all that is stored; injected ones are 1/32 of their neighbours and lose most.
    assert.ok(mixed < 1.005 * weights && mixed < 1.01 * float, all);
  });

  it('4 bits of weights: round to nearest > LoRC, and > GPTQ', async () => {
    const perChannel = ['weight.groupSize=0'];
    const nearest = await of('w4a16', ...perChannel);
    const rank8 = await of('w4a16', ...perChannel, 'lorc.rank=8');
    const gptq = await of('w4a16', ...perChannel, 'weight.rounding=gptq');
    const all = text([nearest, rank8, gptq]);
    assert.ok(rank8 < 0.99 * nearest, all);
    assert.ok(gptq < 0.97 * nearest, all);
  });

  it("Atom's ladder: each step is better than the one before", async () => {
    const rtn = 'weight.rounding=rtn';
    const perToken = ['weight.groupSize=0', 'activation.groupSize=0', 'weight.channelGroup=1'];
    const noClip = ['weight.clip=1', 'activation.clip=1'];
    const steps = [
      await of('w4a4'),
      await of('atom-w4a4', rtn, ...perToken, ...noClip),
      await of('atom-w4a4', rtn, ...noClip, 'weight.channelGroup=1'),
      await of('atom-w4a4', rtn),
      await of('atom-w4a4'),
    ];
    for (let i = 1; i < steps.length; i++) assert.ok(steps[i]! < steps[i - 1]!, text(steps));
    assert.ok(steps[0]! > 100 * steps[1]!, text(steps));
  });
});
