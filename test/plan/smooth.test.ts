import { deepEqual, equal, match, ok, rejects, throws } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { findRecipe, makePlan, withSettings, type Plan, type Recipe } from '../../graph-rewrite/index.js';
import { readFloats } from '../../graph-rewrite/ir/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import {
  decodeFactors,
  decodeOrder,
  encodeFactors,
  inTurns,
  parsePlan,
  planSteps,
} from '../../graph-rewrite/plan/index.js';
import { smoothingFactors } from '../../graph-rewrite/plan/smooth.js';
import { TestGraph } from '../helpers/graph.js';
import { Random } from '../helpers/random.js';
import { randomStats } from '../helpers/stats.js';
import { zooPath } from '../helpers/zoo.js';

const recipe = findRecipe('smoothquant-w8a8');
const everywhere = withSettings(recipe, ['smooth.at=all']);

function planFor(name: string, wanted: Recipe, samples = false) {
  const model = loadModel(zooPath(name));
  const analysis = analyze(model);
  const stats = randomStats(analysis);
  const random = new Random('sample rows');
  if (samples) {
    for (const [value, each] of stats) {
      // Rows of the size that the statistics speak of, one channel far above the rest.
      const rows = random.normals('float32', 8 * each.channels) as Float32Array;
      rows.forEach((x, i) => (rows[i] = x * (i % each.channels === 3 ? 60 : 1)));
      const absMax = new Float32Array(each.channels);
      rows.forEach((x, i) => {
        const k = i % each.channels;
        absMax[k] = Math.max(absMax[k]!, Math.abs(x));
      });
      const meanSquare = Float64Array.from(absMax, (_, k) => (k === 3 ? 3600 : 1));
      stats.set(value, { ...each, absMax, max: absMax, min: absMax.map((most) => -most), meanSquare, samples: rows });
    }
  }
  return { stats, plan: makePlan(analysis, stats, wanted, model), analysis };
}

const inputOf = ({ inputs, sites }: Plan, role: string) => {
  const site = sites.find((each) => each.role === role)!;
  ok(site.decision === 'quantize');
  return inputs.find((input) => input.id === site.input)!;
};
const rowsOf = ({ sites }: Plan, role: string) => {
  const site = sites.find((each) => each.role === role)!;
  ok(site.decision === 'quantize');
  return site.rowSmooth === undefined ? undefined : decodeFactors(site.rowSmooth);
};

describe('smoothing: factors', () => {
  const x = Float32Array.of(64, 2, 0.5, 0);
  const w = Float32Array.of(0.25, 0.5, 2, 1);

  it('make maxima equal at alpha 0.5, those of activations 1 at alpha 1, those of weights 1 at alpha 0', () => {
    const half = smoothingFactors(x, w, 0.5);
    deepEqual([...half], [16, 2, 0.5, 1]);
    for (let k = 0; k < 3; k++) equal(x[k]! / half[k]!, w[k]! * half[k]!);
    deepEqual([...smoothingFactors(x, w, 1)], [64, 2, 0.5, 1]);
    deepEqual([...smoothingFactors(x, w, 0)], [4, 2, 0.5, 1]);
  });

  it('are bounded where maxima are tiny', () => {
    ok(smoothingFactors(Float32Array.of(1e-30), Float32Array.of(0), 0.5)[0] === 1);
  });
});

describe('smoothing: the plan', () => {
  it('smooths what comes from norms, by the largest weight of all layers behind it', () => {
    const { plan, analysis, stats } = planFor('llama_kv_ts14', recipe);
    const smoothed = plan.inputs.filter((input) => input.smooth !== undefined);
    deepEqual([...new Set(smoothed.map((input) => input.decision))], ['fuse-norm']);
    equal(smoothed.length, plan.inputs.filter((input) => input.decision === 'fuse-norm').length);
    const input = inputOf(plan, 'q_proj');
    const group = analysis.inputs.find((each) => each.input.name === input.value)!;
    const factors = decodeFactors(input.smooth!);
    const most = group.linears.map(({ weight, layout, N, K }) => {
      const values = readFloats(weight);
      return Math.max(
        ...Array.from({ length: N }, (_, n) => Math.abs(values[layout === 'KN' ? 5 * N + n : n * K + 5]!)),
      );
    });
    const expected = Math.sqrt(stats.get(input.value)!.absMax[5]! / Math.max(...most));
    ok(Math.abs(factors[5]! / expected - 1) < 1e-6);
    match(input.notes[0]!, /^smoothed, alpha 0\.5$/);
  });

  it('smooths o_proj by the rows of v, heads that share values alike, and down_proj by the rows of up', () => {
    const { plan } = planFor('llama_kv_ts14', everywhere);
    const down = inputOf(plan, 'down_proj');
    deepEqual(rowsOf(plan, 'up_proj'), decodeFactors(down.smooth!));
    equal(rowsOf(plan, 'gate_proj'), undefined);
    const o = decodeFactors(inputOf(plan, 'o_proj').smooth!);
    const v = rowsOf(plan, 'v_proj')!;
    const headSize = 16;
    const sharing = o.length / v.length;
    ok(sharing > 1, 'the model shares value heads');
    o.forEach((factor, k) => {
      const head = Math.floor(k / headSize);
      equal(factor, v[Math.floor(head / sharing) * headSize + (k % headSize)]);
    });
  });

  it('smooths ReLU, not GELU, and says where it cannot', () => {
    const { plan: opt } = planFor('opt_kv_dynamo18', everywhere);
    ok(inputOf(opt, 'fc2').smooth !== undefined && rowsOf(opt, 'fc1') !== undefined);
    const { plan: gpt2 } = planFor('gpt2_kv_ts17', everywhere);
    equal(inputOf(gpt2, 'fc2').smooth, undefined);
    match(inputOf(gpt2, 'fc2').notes[0]!, /^not smoothed: it comes from gelu_tanh, which is not homogeneous/);
    // Inside one qkv layer only the rows of values change.
    const rows = rowsOf(gpt2, 'qkv_proj')!;
    ok(rows.subarray(0, 128).every((factor) => factor === 1) && rows.subarray(128).some((factor) => factor !== 1));
  });

  it('leaves a gate alone that multiplies by one number for all channels', () => {
    const g = new TestGraph();
    const x = g.rmsNorm(g.input('x', ['B', 'S', 64]), g.weight('norm.weight', [64]));
    const [gate, up] = [96, 1].map((N) => g.op('MatMul', [x, g.weight(`w${N}`, [64, N])], { name: `to${N}` }));
    const gated = g.op('Mul', [g.op('Mul', [gate!, g.op('Sigmoid', [gate])]), up!]);
    g.output(g.op('MatMul', [gated, g.weight('down', [96, 64])], { name: 'down' }));
    const analysis = analyze(g.model);
    const plan = makePlan(analysis, randomStats(analysis), everywhere, g.model);
    match(
      plan.inputs.flatMap(({ notes }) => notes).join(),
      /not smoothed: to1 makes 1 channels, which are repeated for 96/,
    );
    ok(plan.sites.every((site) => site.decision === 'keep' || site.rowSmooth === undefined));
  });

  it('leaves a norm alone that others read', () => {
    const kept: Recipe = {
      ...recipe,
      overrides: [{ match: { role: 'gate_proj', layer: 0 }, keep: 'a test' }, ...recipe.overrides],
    };
    const input = inputOf(planFor('llama_kv_ts14', kept).plan, 'up_proj');
    equal(input.smooth, undefined);
    match(input.notes[0]!, /^not smoothed: ".*" is also needed elsewhere/);
  });

  it('sorts channels by what smoothing leaves of them', () => {
    const atom = withSettings(findRecipe('atom-w4a4'), ['smooth.alpha=1', 'outliers.rankBy=abs-max']);
    const { plan } = planFor('llama_kv_ts14', atom);
    // All smoothed maxima are 1, up to rounding: the natural order is one of the sorted ones, the float one is not.
    const input = inputOf(plan, 'q_proj');
    const { plan: plain } = planFor('llama_kv_ts14', withSettings(atom, ['smooth=none']));
    ok(input.smooth && input.order !== inputOf(plain, 'q_proj').order);
    equal(decodeOrder(input.order!).length, input.channels);
  });

  it('searches alpha on sample rows, and without them says what is missing', () => {
    const searching = withSettings(everywhere, ['smooth.alpha=search']);
    const { plan } = planFor('llama_kv_ts14', searching, true);
    for (const input of plan.inputs) {
      const [, left] = /alpha [\d.]+ of the search \((\d+) % of the error is left\)/.exec(input.notes[0]!)!;
      ok(Number(left) < 60, `${input.id}: ${input.notes[0]}`);
    }
    match(planFor('llama_kv_ts14', searching).plan.inputs[0]!.notes[0]!, /hold no sample rows/);
  });

  it('a search ends when the signal aborts, in the middle of an input', async () => {
    const searching = withSettings(everywhere, ['smooth.alpha=search']);
    const model = loadModel(zooPath('llama_kv_ts14'));
    const { analysis, stats } = planFor('llama_kv_ts14', searching, true);
    const abort = new AbortController();
    const inputs: number[] = [];
    const onProgress = ({ done }: { done: number }) => {
      if (inputs.push(done) === 2) setTimeout(() => abort.abort());
    };
    const steps = planSteps(analysis, stats, searching, model);
    await rejects(inTurns(steps, { signal: abort.signal, onProgress }), { code: 'interrupted' });
    deepEqual(inputs, [1, 2]);
  });

  it('without statistics smooths nothing, and says so', () => {
    const model = loadModel(zooPath('llama_kv_ts14'));
    const plan = makePlan(analyze(model), undefined, recipe, model);
    equal(plan.inputs[0]!.smooth, undefined);
    match(plan.inputs[0]!.notes[0]!, /not smoothed: there are no calibration statistics/);
  });

  it('reads back from JSON, and refuses factors that are not positive or too few', () => {
    const { plan } = planFor('llama_kv_ts14', everywhere);
    const text = JSON.parse(JSON.stringify(plan)) as Plan;
    deepEqual(parsePlan(text, 'plan'), plan);
    const spoiled = (smooth: string) => ({
      ...text,
      inputs: text.inputs.map((input, i) => (i === 0 ? { ...input, smooth } : input)),
    });
    const zeros = encodeFactors(new Float32Array(plan.inputs[0]!.channels));
    for (const wrong of [zeros, encodeFactors(Float32Array.of(1, 2))])
      throws(() => parsePlan(spoiled(wrong), 'plan'), /smoothing factors are not 64 positive numbers/);
  });
});
