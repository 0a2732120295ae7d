import { deepEqual, equal, match, ok, throws } from 'node:assert/strict';
import { LowbitError } from '../../ops/common/errors.js';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings, type Plan, type Recipe } from '../../graph-rewrite/index.js';
import type { ChannelStats } from '../../graph-rewrite/calibrate/stats.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { decodeOrder, explain, parsePlan } from '../../graph-rewrite/plan/index.js';
import { headOrder, rank } from '../../graph-rewrite/plan/order.js';
import { fit } from '../../graph-rewrite/plan/shrink.js';
import { temporaryFolder } from '../helpers/files.js';
import { TestGraph } from '../helpers/graph.js';
import { writeModel } from '../helpers/models.js';
import { randomStats } from '../helpers/stats.js';
import { zooPath } from '../helpers/zoo.js';

function planFor(name: string, recipe: Recipe) {
  const model = loadModel(zooPath(name));
  const analysis = analyze(model);
  const stats = randomStats(analysis);
  return { model, analysis, stats, plan: makePlan(analysis, stats, recipe, model) };
}

const atom = withSettings(findRecipe('atom-w4a4'), ['weight.rounding=rtn']);
const keep = (match: Recipe['overrides'][number]['match'], reason: string): Recipe => ({
  ...atom,
  overrides: [{ match, keep: reason }, ...atom.overrides],
});

/** Decisions of the first block, one line an input. */
const decisions = (plan: Plan): string[] =>
  plan.inputs
    .slice(0, 4)
    .map((input) =>
      [
        input.decision,
        input.reorder,
        `${input.format}/${input.groupSize}+${input.outlierChannels}`,
        ...(input.residual ? ['residual'] : []),
        ...(input.floatOutput ? ['floats'] : []),
      ].join(' '),
    );

describe('plan: shrinking', () => {
  const cases: readonly (readonly [number, number, number, number, number, number])[] = [
    // K, outliers, group → outliers, group, notes
    [4096, 128, 128, 128, 128, 0],
    [384, 128, 128, 128, 128, 0],
    [1024, 128, 128, 128, 128, 0],
    [64, 128, 128, 16, 48, 2],
    [256, 128, 128, 80, 16, 2],
    [300, 0, 128, 0, 0, 1],
    [44, 128, 0, 0, 0, 1],
    [96, 0, 0, 0, 0, 0],
    [4096, 100, 128, 96, 80, 2],
  ];
  for (const [K, outliers, group, O, G, notes] of cases) {
    it(`K ${K}: ${outliers} outliers, group ${group} → ${O}, ${G}`, () => {
      const fitted = fit(K, outliers, group);
      deepEqual([fitted.outlierChannels, fitted.groupSize, fitted.notes.length], [O, G, notes]);
      ok(O % 16 === 0 && O <= K / 3 && (G === 0 || (K - O) % G === 0));
    });
  }
});

describe('plan: orders', () => {
  it('puts the strongest channels last, shares one order among q, k and v, and folds that of down into gate and up', () => {
    const { plan, stats } = planFor('llama_kv_ts17', atom);
    for (const input of plan.inputs) {
      const order = decodeOrder(input.order!);
      const { meanSquare } = stats.get(input.value)!;
      deepEqual(
        [...order].sort((a, b) => a - b),
        Array.from(order.keys()),
      );
      const last = order.subarray(input.channels - input.outlierChannels);
      const weakest = Math.min(...[...last].map((channel) => meanSquare[channel]!));
      equal(meanSquare.filter((value) => value > weakest).length, input.outlierChannels - 1);
    }
    const down = plan.inputs.find((input) => input.decision === 'fuse-gate')!;
    const folded = plan.sites.filter((site) => site.decision === 'quantize' && site.rowOrder === down.order);
    deepEqual(
      folded.map((site) => `${site.role} ${site.layer}`),
      ['gate_proj 0', 'up_proj 0'],
    );
  });

  it('the global order in front of o_proj really crosses heads', () => {
    const { plan } = planFor('llama_kv_ts17', atom);
    const order = decodeOrder(plan.inputs[1]!.order!);
    ok(order.some((channel, i) => channel >> 4 !== i >> 4));
  });

  it('ranks channels of inputs that share an order by all rows, or by the largest value', () => {
    const stats = (rows: number, ...values: number[]): ChannelStats => ({
      ...{ inputValue: 'x', channels: values.length, rows },
      ...{ meanSquare: Float64Array.from(values), absMean: Float64Array.from(values, (value) => 2 * value) },
      ...{ min: new Float32Array(values.length), max: Float32Array.from(values), absMax: Float32Array.from(values) },
    });
    const all = [stats(1, 8, 0, 4), stats(3, 0, 4, 4)];
    deepEqual([...rank(all, 'mean-square')], [2, 3, 4]);
    deepEqual([...rank(all, 'abs-mean')], [4, 6, 8]);
    deepEqual([...rank(all, 'abs-max')], [8, 4, 4]);
    deepEqual([...rank(all.slice(0, 1), 'mean-square')], [8, 0, 4]);
  });

  it('inside heads: every query head of a value head has its order', () => {
    const importance = Float64Array.of(5, 1, 9, 0, 4, 8, 0, 9, 1, 1, 3, 3);
    const { columns, values } = headOrder(importance, 4, 2, 3);
    // Value head 0 serves query heads 0 and 1: 5+0, 1+4, 9+8; value head 1 serves 2 and 3: 0+1, 9+3, 1+3.
    deepEqual([...values], [0, 1, 2, 3, 5, 4]);
    deepEqual([...columns], [0, 1, 2, 3, 4, 5, 6, 8, 7, 9, 11, 10]);
  });

  it('folds an order inside heads into the rows of v, also where q, k and v are one layer', () => {
    for (const [name, start] of [
      ['llama_kv_dynamo18', 0],
      ['gpt2_kv_ts17', 128],
    ] as const) {
      const { plan } = planFor(name, { ...atom, oReorder: 'head' });
      const input = plan.inputs.find((each) => each.reorder === 'fold-heads')!;
      equal(input.outlierChannels, 0);
      const v = plan.sites.find((site) => site.role === (start ? 'qkv_proj' : 'v_proj'));
      ok(v?.decision === 'quantize');
      const rows = decodeOrder(v.rowOrder!);
      const columns = decodeOrder(input.order!);
      // The first head of both is the same permutation of 16 channels.
      deepEqual(
        [...rows.subarray(start, start + 16)].map((row) => row - start),
        [...columns.subarray(0, 16)],
      );
      deepEqual(
        [...rows.subarray(0, start)],
        Array.from({ length: start }, (_, i) => i),
      );
    }
  });

  it('without statistics keeps the order, and says so', () => {
    const { analysis, model } = planFor('llama_kv_ts17', atom);
    const plan = makePlan(analysis, undefined, atom, model);
    ok(plan.inputs.every((input) => input.order === undefined && input.outlierChannels === 0));
    match(plan.inputs[0]!.notes[0]!, /no calibration statistics/);
  });
});

describe('plan: decisions', () => {
  it('fuses norm, gate, activation and residual where they are', () => {
    deepEqual(decisions(planFor('llama_kv_ts14', atom).plan), [
      'fuse-norm gather s4/48+16',
      'quantize gather s4/48+16',
      'fuse-norm gather s4/48+16 residual',
      'fuse-gate fold s4/96+32',
    ]);
    deepEqual(decisions(planFor('gpt2_kv_ts17', findRecipe('w8a8')).plan), [
      // Token and position embeddings have one shape here: the first norm adds them.
      'fuse-norm none s8/0+0 residual',
      'quantize none s8/0+0',
      'fuse-norm none s8/0+0 residual',
      'fuse-act none s8/0+0',
    ]);
  });

  it('a norm whose floats others need (post-norm models) hands them out', () => {
    equal(decisions(planFor('bert_ts17', atom).plan)[2], 'fuse-norm gather s4/48+16 residual floats');
  });

  it('weight-only: nothing quantizes activations, nothing is merged', () => {
    const { plan } = planFor('llama_kv_ts14', findRecipe('w4a16'));
    ok(
      plan.inputs.every((input) => input.decision === 'float' && input.format === 'none' && input.order === undefined),
    );
    ok(plan.sites.every((site) => site.decision === 'keep' || site.merge === undefined));
  });

  it('gathers at run time where rows cannot be permuted, and names the layer that stands in the way', () => {
    const { plan } = planFor('llama_kv_ts14', keep({ role: 'gate_proj', layer: 0 }, 'a test'));
    const down = plan.inputs.find((input) => input.sites.some((site) => site.includes('layers.0/mlp/down')))!;
    deepEqual([down.decision, down.reorder], ['quantize', 'gather']);
    match(down.notes[0]!, /gathered at run time: \/m\/model\/layers.0\/mlp\/gate_proj\/MatMul stays float/);
    const norm = plan.inputs.find((input) => input.sites.some((site) => site.includes('layers.0/mlp/up')))!;
    equal(norm.floatOutput, true, 'the kept layer still reads the norm');
  });

  it('layers of one input with other settings get codes of their own', () => {
    const recipe: Recipe = {
      ...atom,
      overrides: [{ match: { role: 'v_proj' }, set: { activation: { format: 's8' } } }, ...atom.overrides],
    };
    const { plan } = planFor('llama_kv_ts14', recipe);
    const [first, second] = plan.inputs;
    deepEqual([first!.decision, first!.format, first!.floatOutput, first!.sites.length], ['fuse-norm', 's4', true, 2]);
    deepEqual([second!.decision, second!.format, second!.id], ['quantize', 's8', `${first!.value}#2`]);
    match(second!.notes[0]!, /its norm already quantizes/);
  });

  it('merges gate and up always, q, k and v as the recipe says', () => {
    const merges = (qkv: boolean) =>
      planFor('llama_kv_ts14', { ...atom, merge: { qkv, gateUp: true } }).plan.sites.flatMap((site) =>
        site.decision === 'quantize' && site.merge && site.layer === 0 ? [site.role] : [],
      );
    deepEqual(merges(false), ['gate_proj', 'up_proj']);
    deepEqual(merges(true), ['q_proj', 'k_proj', 'v_proj', 'gate_proj', 'up_proj']);
  });

  it('explains every layer in a row', () => {
    const rows = explain(planFor('llama_kv_ts14', atom).plan);
    equal(rows.length, 15);
    deepEqual(
      [rows[3]!.role, rows[3]!.shape, rows[3]!.decision, rows[14]!.decision, rows[14]!.reason],
      ['o_proj', '64×64', 's4/48 × s4/48 + 16 s8', 'float', 'the output head is the most sensitive weight'],
    );
    match(
      rows[4]!.reason,
      /^fuse-norm; gather; with residual add; merged as .*gate_up_proj; 128 outlier channels became 16/,
    );
  });

  it('predicts the bytes of the packed weights exactly', () => {
    for (const recipe of [atom, ...['w4a4', 'w8a8', 'w4a16'].map(findRecipe)]) {
      const { model, analysis, plan } = planFor('gpt2_kv_ts17', recipe);
      applyPlan(model, plan, analysis);
      const packed = new Set(
        model.graph.nodes
          .filter((node) => node.opType === 'QuantGemm')
          .flatMap((node) => [2, 3, 4, 5].flatMap((i) => node.input(i)?.initializer ?? [])),
      );
      equal(
        [...packed].reduce((sum, tensor) => sum + tensor.byteLength, 0),
        plan.predicted.linearBytes,
      );
    }
  });
});

describe('plan: as a file', () => {
  const { plan, model, analysis } = planFor('llama_kv_ts14', atom);
  const copy = (): Record<string, unknown> => JSON.parse(JSON.stringify(plan)) as Record<string, unknown>;

  it('comes back as it was', () => deepEqual(parsePlan(copy(), 'plan.json'), plan));

  const broken: readonly (readonly [string, (plan: Record<string, unknown>) => void, RegExp])[] = [
    ['another format number', (each) => (each['format'] = 2), /plan.json.format: is 2, expected one of 1/],
    ['an unknown key', (each) => (each['extra'] = 1), /plan.json: unknown key "extra", expected format, model/],
    [
      'an unknown key in a site',
      (each) => ((each['sites'] as object[])[0] = { ...plan.sites[0], bits: 4 }),
      /sites\[0\]: unknown key "bits"/,
    ],
    [
      'an order that is no permutation',
      (each) => ((each['inputs'] as object[])[0] = { ...plan.inputs[0], order: 'AAAA' }),
      /input ".*": its order is not a permutation of 64 channels/,
    ],
    [
      'a site without its input',
      (each) => ((each['sites'] as object[])[0] = { ...plan.sites[0], input: 'nowhere' }),
      /site ".*q_proj\/MatMul": input "nowhere" is not in the plan/,
    ],
    [
      'a group that does not divide',
      (each) =>
        ((each['sites'] as object[])[0] = {
          ...plan.sites[0],
          weight: { format: 's4', groupSize: 32, clip: 1, channelGroup: 1, outlierChannels: 16, rounding: 'rtn' },
        }),
      /group size is 32, expected 0 or a multiple of 16 that divides 48/,
    ],
  ];
  for (const [what, change, message] of broken) {
    it(`refuses ${what}`, () => {
      const each = copy();
      change(each);
      throws(() => parsePlan(each, 'plan.json'), message);
    });
  }

  it('anything in place of any field is a plan too or told where it is wrong', () => {
    const whole = copy();
    let refused = 0;
    const spoil = (holder: Record<string, unknown>): void => {
      for (const [key, value] of Object.entries(holder)) {
        for (const other of [null, undefined, [], {}, -1, 0.5, 1e99, '', true]) {
          holder[key] = other;
          try {
            parsePlan(whole, 'plan.json');
          } catch (error) {
            ok(error instanceof LowbitError && error.code === 'usage', `${key} = ${String(other)}: ${String(error)}`);
            refused++;
          }
        }
        holder[key] = value;
        if (typeof value === 'object' && value !== null) spoil(value as Record<string, unknown>);
      }
    };
    // Of the lists one element: the others are of its form.
    for (const list of ['inputs', 'sites']) (whole[list] as unknown[]).splice(1);
    (whole['inputs'] as { sites: unknown[] }[])[0]!.sites.splice(1);
    deepEqual(parsePlan(whole, 'plan.json').sites.length, 1);
    spoil(whole);
    ok(refused > 300, String(refused));
    for (const value of [null, [], 'x', 7])
      throws(() => parsePlan(value, 'plan.json'), /plan\.json: is .*, expected an object/);
  });

  it('is refused for another model, also one of the same shape with other weights', () => {
    throws(
      () => applyPlan(loadModel(zooPath('llama_kv_ts17')), { ...plan, model: { sha256: 'x', path: '' } }),
      /was made for the model x/,
    );
    // A bit of the first element of a weight, of the last one, and of the embedding.
    for (const [index, at] of [
      [0, 2],
      [0, -2],
      [undefined, -2],
    ] as const) {
      const other = loadModel(zooPath('llama_kv_ts14'));
      const changed =
        index === undefined
          ? other.graph.nodes.find(({ opType }) => opType === 'Gather')!.input(0)!
          : analyze(other).linears[index]!.weightValue!;
      const bytes = new Uint8Array(changed.initializer!.bytes());
      bytes[at < 0 ? bytes.length + at : at]! ^= 1;
      changed.initializer = {
        ...changed.initializer!,
        bytes: () => bytes,
        read: (start, length) => bytes.subarray(start, start + length),
      };
      throws(() => applyPlan(other, plan), /Make the plan anew/);
    }
    ok(applyPlan(model, plan, analysis).quantized > 0);
  });
});

describe('plan: nothing to do', () => {
  const folder = temporaryFolder();

  it('names the nearest miss where there is no layer', () => {
    const g = new TestGraph();
    const x = g.input('x', ['B', 'S', 64]);
    g.output(
      g.op('LayerNormalization', [x, g.weight('w', [64])], {
        name: 'ln',
        attributes: { axis: { type: 'int', value: 1 } },
      }),
    );
    throws(
      () => makePlan(analyze(g.model), undefined, findRecipe('w8a8'), g.model),
      /no linear layers.*nearest miss is LayerNormalization "ln": normalizes from axis 1/,
    );
  });

  it('tells calls of model-local functions, which hide layers', () => {
    const op = { opType: 'Linear', domain: 'mine', name: 'call', input: ['x'], output: ['y'] };
    const type = { tensorType: { elemType: 1, shape: { dim: [{ dimParam: 'n' }, { dimParam: 'k' }] } } };
    const graph = { name: 'g', node: [op], input: [{ name: 'x', type }], output: [{ name: 'y', type }] };
    const functions = [
      { name: 'Linear', domain: 'mine', input: ['x'], output: ['y'], node: [{ ...op, opType: 'Neg', domain: '' }] },
    ];
    const model = loadModel(writeModel(folder.path('model.onnx'), graph, { functions }));
    throws(
      () => makePlan(analyze(model), undefined, findRecipe('w8a8'), model),
      /nearest miss is Linear "call": is a call of a model-local function/,
    );
  });

  it('says why the cache stays where a recipe is about nothing else', () => {
    const keptBy = (name: string) => {
      const model = loadModel(zooPath(name));
      return () => makePlan(analyze(model), undefined, findRecipe('kv4'), model);
    };
    throws(keptBy('llama_nocache_dynamo18'), /; and no cache of keys and values: ".+": it keeps no cache/);
    const g = new TestGraph();
    g.output(g.op('MatMul', [g.input('x', ['n', 64]), g.weight('w', [64, 64])], { name: 'only' }));
    throws(
      () => makePlan(analyze(g.model), undefined, findRecipe('kv4'), g.model),
      /; and no cache of keys and values: there is no attention/,
    );
  });

  it('says why the first layer stays where all do', () => {
    const g = new TestGraph();
    g.output(g.op('MatMul', [g.input('x', ['n', 8]), g.weight('w', [8, 8])], { name: 'small' }));
    throws(
      () => makePlan(analyze(g.model), undefined, withSettings(findRecipe('w8a8'), []), g.model),
      /none of its linear layers can be quantized \(1\), the first is "small": 8 input channels/,
    );
  });
});
