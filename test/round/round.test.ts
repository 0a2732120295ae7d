import { deepEqual, equal, ok, rejects, throws } from 'node:assert/strict';
import { mkdirSync, readdirSync } from 'node:fs';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import {
  applyPlan,
  findRecipe,
  makePlan,
  roundWeights,
  saveModel,
  withSettings,
  type Plan,
} from '../../graph-rewrite/index.js';
import { calibrate } from '../../graph-rewrite/calibrate/index.js';
import { hessianGroups, listProducts, parsePlan, roundingPasses } from '../../graph-rewrite/plan/index.js';
import { defaultGptq } from '../../graph-rewrite/recipes/recipe.js';
import { Graph } from '../../graph-rewrite/ir/index.js';
import type { Parts } from '../../graph-rewrite/pack/linear.js';
import { collectHessians } from '../../graph-rewrite/round/index.js';
import { RoundingStore } from '../../graph-rewrite/round/store.js';
import { temporaryFolder } from '../helpers/files.js';
import { TestGraph } from '../helpers/graph.js';
import { merged, mergedFeed } from '../helpers/merged.js';
import { createSession } from '../helpers/session.js';
import { sqnr } from '../helpers/zoo.js';
import { native, path, prepare as prepareAs } from './prepare.js';

const prepare = (...settings: string[]) => prepareAs('atom-w4a4', ...settings);

const productsOf = ({ plan, analysis }: ReturnType<typeof prepare>) =>
  listProducts(plan, (name) => analysis.linears.find((site) => site.name === name)!);

/** All bytes that the plan's products are stored in. */
function bytesOf(prepared: ReturnType<typeof prepare>, weights: Awaited<ReturnType<typeof roundWeights>>['weights']) {
  return productsOf(prepared).map(({ name }) => {
    const { b, bScale, bOutlier, bOutlierScale } = weights(name)!;
    return [b, bScale, bOutlier, bOutlierScale].map((tensor) => tensor?.bytes());
  });
}

describe('rounding a model by GPTQ', () => {
  const folder = temporaryFolder();

  it('makes weights that the passes take, and a model that runs', async () => {
    const prepared = prepare();
    const { layers, weights } = await roundWeights({ ...prepared, folder: folder.path('work') });
    deepEqual(
      layers.map((layer) => layer.name),
      productsOf(prepared).map((product) => product.name),
    );
    for (const { name, gptq } of layers) ok(gptq!.loss < gptq!.nearestLoss, `${name}: ${JSON.stringify(gptq)}`);
    const { model, plan, analysis, feeds } = prepared;
    const float = await createSession(path);
    const expected = await float.run(feeds[0]!, ['logits']);
    await float.release();
    applyPlan(model, plan, analysis, weights);
    await saveModel(model, folder.path('out.onnx'));
    const rewritten = await createSession(folder.path('out.onnx'));
    const actual = await rewritten.run(feeds[0]!, ['logits']);
    await rewritten.release();
    const data = (each: typeof actual) => (each['logits'] as { data: Float32Array }).data;
    ok(sqnr(data(expected), data(actual)) > 14);
  });

  it('goes on where it was interrupted', async () => {
    const whole = prepare();
    const expected = bytesOf(whole, (await roundWeights({ ...whole, folder: folder.path('whole') })).weights);
    const prepared = prepare();
    const abort = new AbortController();
    let calls = 0;
    const counting = {
      ...{ quadraticForm: native.quadraticForm, lowRank: native.lowRank },
      gptq: (...args: Parameters<typeof native.gptq>) => {
        calls++;
        return native.gptq(...args);
      },
    };
    const options = { ...prepared, native: counting, folder: folder.path('work') };
    const stop = roundWeights({
      ...options,
      signal: abort.signal,
      onProgress: ({ stage, done }) => stage === 'rounding' && done === 3 && abort.abort(),
    });
    await rejects(stop, { code: 'interrupted' });
    equal(calls, 3);
    const { weights } = await roundWeights(options);
    equal(calls, productsOf(prepared).length);
    deepEqual(bytesOf(prepared, weights), expected);
    // Other data is another calibration: nothing of the first is taken.
    await roundWeights({ ...options, feeds: prepared.feeds.slice(1) });
    equal(calls, 2 * productsOf(prepared).length);
    equal(readdirSync(folder.path('work')).length, 2);
  });

  it('collects as many Hessians in a pass as the memory allows, and gives the same', async () => {
    const prepared = prepare();
    const groups = hessianGroups(productsOf(prepared));
    const one = (8 * groups[0]!.K ** 2) / 2 ** 20;
    deepEqual(
      roundingPasses(groups, { ...defaultGptq, memory: 0 }).map((pass) => pass.length),
      groups.map(() => 1),
    );
    equal(roundingPasses(groups, defaultGptq).length, 1);
    equal(roundingPasses(groups, { ...defaultGptq, memory: 2 * one })[0]!.length, 2);
    equal(roundingPasses(groups, { ...defaultGptq, hessian: 'sequential' }).length, 2); // blocks
    equal(prepared.plan.predicted.rounding?.passes, 1);
    parsePlan(JSON.parse(JSON.stringify(prepared.plan)), 'plan');

    const first = await roundWeights({ ...prepared, folder: folder.path('one') });
    let sessions = 0;
    const small: Plan = {
      ...prepared.plan,
      recipe: { ...prepared.plan.recipe, gptq: { ...defaultGptq, memory: 2 * one } },
    };
    const second = await roundWeights({
      ...{ ...prepared, plan: small, folder: folder.path('many') },
      createSession: (...args) => {
        sessions++;
        return createSession(...args);
      },
    });
    ok(sessions >= groups.length / 2, `${sessions} sessions`);
    deepEqual(bytesOf(prepared, second.weights), bytesOf(prepared, first.weights));
  });

  it('takes later Hessians from the model quantized so far', async () => {
    const float = prepare();
    const sequential = prepare('gptq.hessian=sequential');
    const first = bytesOf(float, (await roundWeights({ ...float, folder: folder.path('a') })).weights);
    const { weights, layers } = await roundWeights({ ...sequential, folder: folder.path('b') });
    const second = bytesOf(sequential, weights);
    productsOf(float).forEach(({ parts }, i) => {
      const same = Buffer.compare(first[i]![0]!, second[i]![0]!) === 0;
      equal(same, parts[0]!.planned.layer === 0, `product ${i}`);
    });
    for (const { name, gptq } of layers) ok(gptq!.loss < gptq!.nearestLoss, name);
    // Caches stay float meanwhile, also where attention would quantize for the layer behind it.
    const cached = prepare('gptq.hessian=sequential', 'kv.bits=4', 'kv.form=in_place', 'merge.qkv=false');
    ok(cached.plan.inputs.some(({ decision }) => decision === 'fuse-attention'));
    const third = await roundWeights({ ...cached, folder: folder.path('c') });
    deepEqual(bytesOf(cached, third.weights), second);
  });

  it('leaves no half file where a layer cannot be kept', () => {
    const store = new RoundingStore(folder.path('store'));
    mkdirSync(folder.path('store/0000.json'));
    const record = { name: 'layer', K: 1, N: 1, seconds: 0 };
    throws(() => store.write(0, { b: new Uint8Array(1), bScale: new Uint8Array(4) } as Parts, record), /0000\.json/);
    deepEqual(readdirSync(folder.path('store')).sort(), ['0000.bin', '0000.json']);
  });

  it('leaves layers inside subgraphs to round to nearest, and says so', () => {
    const g = new TestGraph();
    const flag = g.input('flag', [1], 'bool');
    const x = g.input('x', ['rows', 64]);
    const branch = (name: string) => {
      const inner = new TestGraph(18, new Graph(g.model, name, g.graph));
      inner.output(inner.op('MatMul', [x, inner.weight('w', [64, 48])], { name: `${name}_layer` }), ['rows', 48]);
      return { type: 'graph', value: inner.graph } as const;
    };
    const attributes = { then_branch: branch('then'), else_branch: branch('else') };
    g.output(g.op('If', [flag], { attributes, name: 'if' }), ['rows', 48]);
    const recipe = withSettings(findRecipe('w4a16'), ['weight.rounding=gptq']);
    const { sites, predicted } = makePlan(analyze(g.model), undefined, recipe, g.model);
    for (const site of sites) {
      ok(site.decision === 'quantize');
      equal(site.weight.rounding, 'rtn');
      deepEqual(site.notes, [
        'inside a subgraph, without calibration statistics that show GPTQ rows there: rounded to nearest',
      ]);
    }
    equal(predicted.rounding, undefined);
  });

  it('rounds layers in the branches of an If once for both, where calibration has seen one run', async () => {
    const model = merged();
    const analysis = analyze(model);
    const feeds = Array.from({ length: 16 }, (_, i) => mergedFeed(true, `rows ${i}`));
    const recipe = withSettings(findRecipe('w4a16'), ['weight.rounding=gptq']);
    const stats = await calibrate({ model, analysis, feeds, createSession });
    const plan = makePlan(analysis, stats, recipe, model);
    const options = { analysis, plan, createSession, native, load: () => merged() };
    const { layers, weights } = await roundWeights({ ...options, feeds, folder: folder.path('branches') });
    equal(layers.length, 1);
    ok(layers[0]!.gptq!.loss < layers[0]!.gptq!.nearestLoss);
    applyPlan(model, plan, analysis, weights);
    ok(plan.sites.every((site) => site.decision === 'quantize' && site.weight.rounding === 'gptq'));
    const targets = plan.inputs.map(({ value }) => ({ values: [value], K: 64 }));
    const collected = collectHessians({ model: merged(), targets, feeds, createSession });
    await rejects(collected, /norm_y.*is in a branch that no calibration sample takes, expected one that does/);
  });

  it('refuses a plan with GPTQ when no rounded weights are given', () => {
    const { model, plan, analysis } = prepare();
    throws(() => applyPlan(model, plan, analysis), /the plan rounds it by GPTQ and no rounded weights are given/);
  });
});
