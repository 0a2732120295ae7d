import { deepEqual, equal, ok, rejects, throws } from 'node:assert/strict';
import {
  applyPlan,
  explain,
  findRecipe,
  loadModel,
  roundWeights,
  saveModel,
  withSettings,
  type RoundOptions,
} from '../../graph-rewrite/index.js';
import { linearSize } from '../../graph-rewrite/cli/linear-size.js';
import { parsePlan, type Plan } from '../../graph-rewrite/plan/index.js';
import { compareModels } from '../../graph-rewrite/verify/index.js';
import { temporaryFolder } from '../helpers/files.js';
import { createSession } from '../helpers/session.js';
import { sqnr, zooFeeds } from '../helpers/zoo.js';
import { native, path, prepare } from './prepare.js';

describe('low-rank terms', () => {
  const folder = temporaryFolder();
  let runs = 0;

  /** Rewrites and runs; the output's quality, and what rounding reported. */
  async function rewritten(recipe: string, ...settings: string[]) {
    const { model, analysis, plan, feeds, ...rest } = prepare(recipe, ...settings);
    const rounding = plan.predicted.rounding;
    const used = rounding?.passes ? feeds : [];
    const work = folder.path(`work${runs++}`);
    const rounded = rounding && (await roundWeights({ ...rest, analysis, plan, feeds: used, folder: work }));
    applyPlan(model, plan, analysis, rounded?.weights);
    const out = folder.path(`out${runs}.onnx`);
    await saveModel(model, out);
    const [float, quantized] = [await createSession(path), await createSession(out)];
    const logits = async (session: typeof float) =>
      ((await session.run(feeds[0]!, ['logits']))['logits'] as { data: Float32Array }).data;
    const quality = sqnr(await logits(float), await logits(quantized));
    await float.release();
    await quantized.release();
    return { quality, plan, out, layers: rounded?.layers ?? [], bytes: linearSize(model).bytes };
  }

  it('take rounding errors back, the more the higher the rank, on weights rounded to nearest', async () => {
    let quality = (await rewritten('zeroquant-fp-w4a8', 'weight.rounding=rtn')).quality;
    let left = 1;
    for (const rank of [4, 16, 32]) {
      const set = ['weight.rounding=rtn', `lorc.rank=${rank}`];
      const now = await rewritten('zeroquant-fp-w4a8', ...set);
      ok(now.quality > quality, `rank ${rank}: ${now.quality} dB, less ${quality}`);
      quality = now.quality;
      ok(now.layers.length > 0 && now.layers.every(({ gptq, lorc }) => !gptq && lorc!.left < lorc!.error));
      const share = now.layers.reduce((sum, { lorc }) => sum + lorc!.left / lorc!.error, 0) / now.layers.length;
      ok(share < left);
      left = share;
      equal(now.plan.predicted.linearBytes, now.bytes, 'predicted bytes');
    }
  });

  it('are seen by the comparison of layers: weights err less with them', async () => {
    const weightErrors = async (rank: number): Promise<number[]> => {
      const { out } = await rewritten('zeroquant-fp-w4a8', 'weight.rounding=rtn', `lorc.rank=${rank}`);
      const reference = loadModel(path);
      const feeds = [zooFeeds(reference, { batch: 1, tokens: 24 })];
      const { layers } = await compareModels({ reference, rewritten: loadModel(out), feeds, createSession });
      return layers.map(({ weightError }) => weightError!);
    };
    const [plain, compensated] = [await weightErrors(0), await weightErrors(16)];
    ok(plain.length > 0);
    compensated.forEach((error, i) => ok(error < plain[i]!, `layer ${i}: ${error}, without ${plain[i]}`));
  });

  it('reproduce weights with the full rank, with 16 bits closer than with 8', async () => {
    const [eight, sixteen] = [
      await rewritten('w4a16', 'lorc.rank=256'),
      await rewritten('w4a16', 'lorc.rank=256', 'lorc.bits=16'),
    ];
    ok(sixteen.quality > eight.quality + 30 && sixteen.quality > 70, `${eight.quality} and ${sixteen.quality} dB`);
    equal(sixteen.plan.predicted.linearBytes, sixteen.bytes);
  });

  for (const [recipe, ...settings] of [
    ['w8a8'],
    ['w4a4'],
    ['atom-w4a4', 'weight.rounding=rtn', 'merge.qkv=true'],
    ['zeroquant-fp-w8a8', 'weight.rounding=rtn'],
    ['w4a16', 'weight.format=e3m0'],
  ] as const) {
    it(`go with ${[recipe, ...settings].join(' ')}`, async () => {
      const without = await rewritten(recipe, ...settings);
      const { quality, plan, bytes, layers } = await rewritten(recipe, ...settings, 'lorc.rank=8', 'lorc.bits=16');
      ok(quality > without.quality - 0.3, `${quality} dB, without ${without.quality}`);
      ok(layers.every(({ lorc }) => lorc!.left < lorc!.error));
      equal(plan.predicted.linearBytes, bytes);
    });
  }

  it('follow GPTQ, of whose result they take the error', async () => {
    const { layers, plan, bytes } = await rewritten('atom-w4a4', 'lorc.rank=8');
    ok(layers.every(({ gptq, lorc }) => gptq!.loss < gptq!.nearestLoss && lorc!.left < lorc!.error));
    equal(plan.predicted.linearBytes, bytes);
  });

  it('are made once: an interrupted run goes on', async () => {
    const { plan, analysis, ...rest } = prepare('w4a16', 'lorc.rank=4');
    let calls = 0;
    const counting = {
      ...{ gptq: native.gptq, quadraticForm: native.quadraticForm },
      lowRank: (...args: Parameters<typeof native.lowRank>) => {
        calls++;
        return native.lowRank(...args);
      },
    };
    const options = { ...rest, plan, analysis, feeds: [], native: counting, folder: folder.path('resumed') };
    const abort = new AbortController();
    const onProgress: RoundOptions['onProgress'] = ({ done }) => done === 2 && abort.abort();
    await rejects(roundWeights({ ...options, signal: abort.signal, onProgress }), { code: 'interrupted' });
    equal(calls, 2);
    const { layers } = await roundWeights(options);
    equal(calls, layers.length);
  });

  it('stand in the plan, which refuses ranks and bits that there are not', () => {
    const { plan, model, analysis } = prepare('w4a16', 'lorc.rank=8');
    deepEqual(plan.predicted.rounding?.passes, 0);
    ok(explain(plan).some(({ reason }) => reason.includes('lorc of rank 8 in 8 bits')));
    const json = JSON.stringify(plan);
    parsePlan(JSON.parse(json), 'plan');
    const with_ = (text: string): Plan => JSON.parse(json.replaceAll('"lorc":{"rank":8,"bits":8}', text)) as Plan;
    throws(() => parsePlan(with_('"lorc":{"rank":0,"bits":8}'), 'plan'), /lorc\.rank: is 0, expected|lorc.rank/);
    throws(() => parsePlan(with_('"lorc":{"rank":8,"bits":4}'), 'plan'), /lorc\.bits/);
    throws(() => applyPlan(model, plan, analysis), /the plan gives it a low-rank term and no rounded weights/);
    throws(() => withSettings(findRecipe('w4a16'), ['lorc.rank=257']), /expected a whole number from 0 to 256/);
    const layer = { match: { role: 'down_proj' }, set: { lorc: { rank: 4 } } };
    const some = prepare('w4a16', `overrides=${JSON.stringify([layer])}`);
    const ranks = some.plan.sites.flatMap((site) =>
      site.decision === 'quantize' && site.weight.lorc ? [`${site.role} ${site.weight.lorc.rank}`] : [],
    );
    ok(ranks.length > 0 && ranks.every((each) => each === 'down_proj 4'));
  });
});
