import { deepEqual, equal, ok, throws } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings, type Recipe } from '../../graph-rewrite/index.js';
import {
  attrInt,
  checkModel,
  printGraph,
  type Graph,
  type Model,
  type Node,
  type Value,
} from '../../graph-rewrite/ir/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { TestGraph } from '../helpers/graph.js';
import { randomStats } from '../helpers/stats.js';
import { zooNames, zooPath } from '../helpers/zoo.js';

const atom = withSettings(findRecipe('atom-w4a4'), ['weight.rounding=rtn']);
const w8a8 = findRecipe('w8a8');

function rewriteModel(model: Model, recipe: Recipe) {
  const analysis = analyze(model);
  const plan = makePlan(analysis, randomStats(analysis), recipe, model);
  return { plan, report: applyPlan(model, plan, analysis) };
}

/** Node lines of a printed graph. */
const nodeLines = (graph: Graph): string[] =>
  printGraph(graph)
    .split('\n')
    .filter((line) => line.startsWith('node'));

/** A node of ours in short: inputs and outputs without the folders of their names. */
function short(node: Node): string {
  const last = (value: Value | undefined) => value?.name.split('/').slice(-2).join('/') ?? '_';
  return `${node.outputs.map(last).join(', ')} = ${node.opType}(${node.inputs.map(last).join(', ')})`;
}

const ours = (model: Model): Node[] => model.graph.nodes.filter((node) => node.metadata.has('lowbit.pass'));

describe('passes: exported models', () => {
  for (const name of zooNames) {
    for (const recipe of [atom, w8a8, findRecipe('w4a16')]) {
      it(`${name} ${recipe.name}: inputs, outputs and all other nodes stay as they were`, () => {
        const before = loadModel(zooPath(name));
        const model = loadModel(zooPath(name));
        const { report } = rewriteModel(model, recipe);
        const ports = ({ graph }: Model) =>
          [graph.inputs, graph.outputs].map((list) => list.map(({ name, dtype, shape }) => ({ name, dtype, shape })));
        deepEqual(ports(model), ports(before));
        const original = new Set(nodeLines(before.graph));
        const left = model.graph.nodes.filter((node) => !node.metadata.has('lowbit.pass'));
        // New values bear the names of those they replace, so untouched nodes read the same; a Shape may read the codes instead.
        const printed = new Map(nodeLines(model.graph).map((line, i) => [model.graph.nodes[i], line]));
        for (const node of left) ok(original.has(printed.get(node)!) || node.is('Shape'), printed.get(node));
        checkModel(model);
        equal(model.opsetImports.get('lowbit'), 1);
        equal(model.metadata.get('lowbit.recipe'), JSON.stringify(recipe));
        equal(report.kept.filter((site) => !site.expected).length, 0);
      });
    }
  }

  it('a second run finds nothing to do and says why', () => {
    const model = loadModel(zooPath('llama_kv_ts17'));
    rewriteModel(model, w8a8);
    const text = printGraph(model.graph);
    throws(() => rewriteModel(model, w8a8), /output head.*|recipe keeps it.*already/);
    equal(printGraph(model.graph), text);
  });

  it('one block of LLaMA, from the dynamo exporter', () => {
    const model = loadModel(zooPath('llama_kv_dynamo23'));
    rewriteModel(model, { ...atom, merge: { qkv: true, gateUp: true } });
    deepEqual(ours(model).slice(0, 8).map(short), [
      'node_RMSNormalization_556/q, node_RMSNormalization_556/scale = NormQuantize(embedding, m.model.layers.0.input_layernorm.weight, _, node_RMSNormalization_556/reorder_index)',
      'node_linear+qkv_proj/y = QuantGemm(node_RMSNormalization_556/q, node_RMSNormalization_556/scale, node_linear+qkv_proj/b, node_linear+qkv_proj/b_scale, node_linear+qkv_proj/b_outlier, node_linear+qkv_proj/b_outlier_scale, lowbit/no_bias)',
      'linear, linear_1, linear_2 = Split(node_linear+qkv_proj/y, node_linear+qkv_proj/sizes)',
      'node_linear_3/q, node_linear_3/scale = Quantize(view_3, node_linear_3/reorder_index)',
      'linear_3 = QuantGemm(node_linear_3/q, node_linear_3/scale, node_linear_3/b, node_linear_3/b_scale, node_linear_3/b_outlier, node_linear_3/b_outlier_scale, lowbit/no_bias)',
      'node_RMSNormalization_557/q, node_RMSNormalization_557/scale, add_424 = NormQuantize(embedding, m.model.layers.0.input_layernorm.weight, _, node_RMSNormalization_557/reorder_index, linear_3)',
      'node_linear_4+gate_up_proj/y = QuantGemm(node_RMSNormalization_557/q, node_RMSNormalization_557/scale, node_linear_4+gate_up_proj/b, node_linear_4+gate_up_proj/b_scale, node_linear_4+gate_up_proj/b_outlier, node_linear_4+gate_up_proj/b_outlier_scale, lowbit/no_bias)',
      'node_mul_410/q, node_mul_410/scale = GatedActQuantize(node_linear_4+gate_up_proj/y)',
    ]);
  });
});

/** x [B, S, 64] → norm → two layers → y; what `use` does with the norm's output becomes a second output. */
function normModel(use: (g: TestGraph, y: Value, x: Value) => Value | undefined): Model {
  const g = new TestGraph();
  const x = g.input('x', ['B', 'S', 64]);
  const y = g.rmsNorm(x, g.weight('gamma', [64]));
  const q = g.op('MatMul', [y, g.weight('wq', [64, 64])], { name: 'q' });
  const k = g.op('MatMul', [y, g.weight('wk', [64, 64])], { name: 'k' });
  g.output(g.op('Add', [q, k], { name: 'sum' }));
  const other = use(g, y, x);
  if (other) g.output(other);
  return g.model;
}

const norm = (model: Model): Node => model.graph.nodes.find((node) => node.opType === 'NormQuantize')!;

describe('passes: values that others need', () => {
  it('nothing else: codes and scales only', () => {
    const model = normModel(() => undefined);
    rewriteModel(model, w8a8);
    equal(short(norm(model)), 'norm/q, norm/scale = NormQuantize(x, gamma)');
  });

  it('only the shape: asked of the codes', () => {
    const model = normModel((g, y) => g.op('Shape', [y], { name: 'shape' }));
    rewriteModel(model, w8a8);
    equal(norm(model).outputs.length, 2);
    equal(model.graph.nodes.find((node) => node.is('Shape'))!.input(0), norm(model).output(0));
  });

  it('the norm itself: a float output under the old name', () => {
    const model = normModel((g, y) => g.op('Neg', [y]));
    rewriteModel(model, w8a8);
    equal(short(norm(model)), 'norm/q, norm/scale, _, norm_y = NormQuantize(x, gamma)');
  });

  it('the norm as a graph output: its name stays', () => {
    const model = normModel((_, y) => y);
    rewriteModel(model, w8a8);
    deepEqual(
      model.graph.outputs.map((value) => value.name),
      ['sum_y', 'norm_y'],
    );
    equal(norm(model).output(3), model.graph.outputs[1]);
  });

  it('an inner value of the norm: it goes on being computed beside', () => {
    const model = normModel((g) => g.op('Neg', [g.graph.value('Reciprocal_y')!]));
    rewriteModel(model, w8a8);
    equal(short(norm(model)), 'norm/q, norm/scale = NormQuantize(x, gamma)');
    ok(model.graph.nodes.some((node) => node.is('Reciprocal')));
  });

  it('a gate product that is used in float is not fused', () => {
    const g = new TestGraph();
    const x = g.input('x', ['B', 'S', 64]);
    const [gate, up] = ['gate', 'up'].map((name) => g.op('MatMul', [x, g.weight(`w_${name}`, [64, 64])], { name }));
    const act = g.op('Mul', [gate, g.op('Sigmoid', [gate])], { name: 'silu' });
    const product = g.op('Mul', [act, up], { name: 'product' });
    g.output(g.op('MatMul', [product, g.weight('w_down', [64, 64])], { name: 'down' }));
    g.output(g.op('Neg', [product]));
    const { plan } = rewriteModel(g.model, w8a8);
    ok(plan.inputs[1]!.notes.includes('"product_y" is also needed in float'), plan.inputs[1]!.notes.join());
    ok(ours(g.model).every((node) => node.opType !== 'GatedActQuantize'));
  });

  it('a gate whose sigmoid others read keeps its order', () => {
    const g = new TestGraph();
    const x = g.input('x', ['B', 'S', 64]);
    const [gate, up] = ['gate', 'up'].map((name) => g.op('MatMul', [x, g.weight(`w_${name}`, [64, 64])], { name }));
    const sigmoid = g.op('Sigmoid', [gate], { name: 'sigmoid' });
    const product = g.op('Mul', [g.op('Mul', [gate, sigmoid], { name: 'silu' }), up], { name: 'product' });
    g.output(g.op('MatMul', [product, g.weight('w_down', [64, 64])], { name: 'down' }));
    g.output(g.op('Neg', [sigmoid]));
    const { plan } = rewriteModel(g.model, atom);
    const down = plan.inputs[1]!;
    deepEqual([down.decision, down.reorder], ['quantize', 'gather']);
    ok(down.notes[0]!.includes('is used outside of product'), down.notes[0]);
  });
});

/** Two blocks x + layer(norm(x)): the second norm sees a residual sum. */
function residualModel(add: (g: TestGraph, x: Value, y: Value) => Value, use?: (g: TestGraph, sum: Value) => Value) {
  const g = new TestGraph();
  const x = g.input('x', ['B', 'S', 64]);
  const y = g.op('MatMul', [x, g.weight('w1', [64, 64])], { name: 'first' });
  const sum = add(g, x, y);
  const normed = g.rmsNorm(sum, g.weight('gamma', [64]));
  g.output(g.op('MatMul', [normed, g.weight('w2', [64, 64])], { name: 'second' }));
  if (use) g.output(use(g, sum));
  return g.model;
}

describe('passes: residuals', () => {
  for (const swap of [false, true]) {
    it(`takes over an Add with the layer on its ${swap ? 'left' : 'right'}`, () => {
      const model = residualModel((g, x, y) => g.op('Add', swap ? [y, x] : [x, y], { name: 'add' }));
      rewriteModel(model, w8a8);
      const [a, b] = swap ? ['first_y', 'x'] : ['x', 'first_y'];
      equal(short(norm(model)), `norm/q, norm/scale = NormQuantize(${a}, gamma, _, _, ${b})`);
    });
  }

  it('hands the sum to those who need it, under its old name', () => {
    const model = residualModel(
      (g, x, y) => g.op('Add', [x, y], { name: 'add' }),
      (g, sum) => g.op('Neg', [sum]),
    );
    rewriteModel(model, w8a8);
    equal(short(norm(model)), 'norm/q, norm/scale, add_y = NormQuantize(x, gamma, _, _, first_y)');
  });

  it('a sum that is a graph output keeps its name', () => {
    const model = residualModel(
      (g, x, y) => g.op('Add', [x, y], { name: 'add' }),
      (_, sum) => sum,
    );
    rewriteModel(model, w8a8);
    deepEqual([model.graph.outputs[1]!.name, norm(model).output(2)], ['add_y', model.graph.outputs[1]]);
  });

  it('leaves an Add that may broadcast, and one with a constant', () => {
    const broadcast = residualModel((g, x, y) =>
      g.op('Add', [y, g.op('Slice', [x, g.integers(0), g.integers(1), g.integers(1)])], { name: 'add' }),
    );
    const constant = residualModel((g, _, y) => g.op('Add', [y, g.weight('p', [7, 64])], { name: 'add' }));
    for (const model of [broadcast, constant]) {
      rewriteModel(model, w8a8);
      equal(short(norm(model)), 'norm/q, norm/scale = NormQuantize(add_y, gamma)');
    }
  });

  it('a Skip norm whose summands may broadcast gets an Add in front', () => {
    const g = new TestGraph();
    const x = g.input('x', ['B', 'S', 64]);
    const skip = g.input('skip', [1, 'S', 64]);
    const y = g.op('SkipSimplifiedLayerNormalization', [x, skip, g.weight('gamma', [64])], {
      domain: 'com.microsoft',
      name: 'norm',
      outputs: ['y', undefined, undefined, 'total'],
    });
    g.output(g.op('MatMul', [y, g.weight('w', [64, 64])], { name: 'layer' }));
    g.output(g.op('Neg', [y.producer!.output(3)]));
    const { plan } = rewriteModel(g.model, w8a8);
    deepEqual(ours(g.model).slice(0, 2).map(short), [
      'total = Add(x, skip)',
      'norm/q, norm/scale = NormQuantize(total, gamma)',
    ]);
    ok(plan.inputs[0]!.notes[0]!.includes('may broadcast'));
  });

  it('two norms of one sum: the first adds, the second reads its sum', () => {
    const g = new TestGraph();
    const [x, z] = [g.input('x', ['B', 'S', 64]), g.input('z', ['B', 'S', 64])];
    const sum = g.op('Add', [x, z], { name: 'add' });
    for (const name of ['a', 'b']) {
      const normed = g.op('LayerNormalization', [sum, g.weight(`gamma_${name}`, [64])], { name: `norm_${name}` });
      g.output(g.op('MatMul', [normed, g.weight(`w_${name}`, [64, 64])], { name }));
    }
    rewriteModel(g.model, w8a8);
    deepEqual(
      ours(g.model)
        .filter((node) => node.opType === 'NormQuantize')
        .map(short),
      [
        'norm_a/q, norm_a/scale, add_y = NormQuantize(x, gamma_a, _, _, z)',
        'norm_b/q, norm_b/scale = NormQuantize(add_y, gamma_b)',
      ],
    );
  });
});

describe('passes: weights', () => {
  it('layers with one weight and one order share the packed weight', () => {
    const g = new TestGraph();
    const [x, z] = [g.input('x', ['B', 'S', 64]), g.input('z', ['B', 'S', 64])];
    const w = g.weight('w', [64, 64]);
    const a = g.op('MatMul', [x, w], { name: 'a' });
    const b = g.op('MatMul', [z, w], { name: 'b' });
    g.output(g.op('Sub', [a, b]));
    rewriteModel(g.model, atom);
    const products = ours(g.model).filter((node) => node.opType === 'QuantGemm');
    equal(products.length, 2);
    for (const input of [2, 3, 4, 5]) equal(products[0]!.input(input), products[1]!.input(input));
    equal(g.graph.ownValue('w'), undefined, 'the float weight is gone');
  });

  it('a weight that something else reads stays beside the packed one', () => {
    const g = new TestGraph();
    const w = g.weight('w', [64, 48]);
    g.output(g.op('MatMul', [g.input('x', ['n', 64]), w]));
    g.output(g.op('Gather', [w, g.input('ids', ['n'], 'int64')]));
    rewriteModel(g.model, w8a8);
    ok(w.initializer);
    equal(w.uses.length, 1);
  });

  it('new nodes say which pass made them, and from what', () => {
    const model = normModel(() => undefined);
    rewriteModel(model, w8a8);
    deepEqual(
      [...norm(model).metadata],
      [
        ['lowbit.pass', 'fuse-norm'],
        ['lowbit.from', 'norm'],
      ],
    );
  });

  it('a flattened layer gives flat rows again', () => {
    const g = new TestGraph();
    const y = g.rmsNorm(g.input('x', ['B', 'S', 64]), g.weight('gamma', [64]));
    g.output(g.op('Gemm', [g.op('Reshape', [y, g.integers(-1, 64)]), g.weight('w', [64, 48])], { name: 'gemm' }));
    rewriteModel(g.model, w8a8);
    deepEqual(
      ours(g.model).map((node) => node.opType),
      ['NormQuantize', 'QuantGemm', 'Reshape'],
    );
    equal(g.model.graph.outputs[0]!.producer!.opType, 'Reshape');
  });

  it('splits with an attribute below opset 13', () => {
    const g = new TestGraph(11);
    const x = g.input('x', ['B', 'S', 64]);
    const outputs = ['q_proj', 'k_proj', 'v_proj'].map((name) =>
      g.op('MatMul', [x, g.weight(`w.${name}`, [64, 64])], { name: `/${name}/MatMul` }),
    );
    for (const value of outputs) g.output(value);
    rewriteModel(g.model, { ...w8a8, merge: { qkv: true, gateUp: true } });
    const split = ours(g.model).find((node) => node.opType === 'Split')!;
    deepEqual([split.inputs.length, attrInt(split, 'axis', 0)], [1, -1]);
    deepEqual(split.attributes.get('split'), { type: 'ints', value: [64, 64, 64] });
  });
});
