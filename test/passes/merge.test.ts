/** Layers that become one product: which do, in which order their channels stand, and that nothing else changes. */
import { deepEqual, equal } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { float, int, tensorOf, type Model, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';
import { attentionOutputs } from '../helpers/kv-run.js';

const heads = 4;
const kvHeads = 2;
const size = 16;
const hidden = 48;

/** q, k and v from a layer each, made in this order, then GroupQueryAttention. */
function attentionModel(order: readonly string[], use?: (g: TestGraph) => void): Model {
  const g = new TestGraph(21);
  const x = g.input('x', ['batch', 'tokens', hidden]);
  const widths: Record<string, number> = { q: heads * size, k: kvHeads * size, v: kvHeads * size };
  for (const name of order) g.op('MatMul', [x, g.weight(`w_${name}`, [hidden, widths[name]!])], { name });
  const rows = ['q_y', 'k_y', 'v_y'].map((name) => g.graph.value(name));
  const past = ['key', 'value'].map((kind) => g.input(`past_key_values.0.${kind}`, ['batch', kvHeads, 'past', size]));
  const table = (of: (x: number) => number) =>
    tensorOf(
      Float32Array.from({ length: 16 * size }, (_, i) => of(i)),
      [32, size / 2],
    );
  const node = g.graph.addNode({
    ...{ opType: 'GroupQueryAttention', domain: 'com.microsoft', name: 'attention' },
    inputs: [
      ...[...rows, ...past, g.input('last', ['batch'], 'int32'), g.input('total', [], 'int32')],
      ...[g.graph.addInitializer('cos', table(Math.cos)), g.graph.addInitializer('sin', table(Math.sin))],
    ],
    outputs: ['y', 'present.0.key', 'present.0.value'],
    attributes: { num_heads: int(heads), kv_num_heads: int(kvHeads), do_rotary: int(1), scale: float(0.3) },
  });
  g.output(node.output(0)!, ['batch', 'tokens', heads * size]);
  for (const i of [1, 2]) g.output(node.output(i)!, ['batch', kvHeads, 'all', size]);
  use?.(g);
  return g.model;
}

function rewrite(model: Model, recipe: string, ...settings: string[]): Model {
  const analysis = analyze(model);
  const wanted = withSettings(findRecipe(recipe), settings);
  applyPlan(model, makePlan(analysis, undefined, wanted, model), analysis);
  return model;
}

/** The layers of every product, in the order of its channels. */
const products = (model: Model) =>
  model.graph.nodes
    .filter(({ opType }) => opType === 'QuantGemm')
    .map(({ metadata }) => JSON.parse(metadata.get('lowbit.sites')!) as string[]);

const countOf = (model: Model, opType: string) => model.graph.nodes.filter((node) => node.opType === opType).length;

describe('passes: merged layers', () => {
  const cases = [
    { title: 'attention of ONNX Runtime', recipe: 'w8a8', settings: [] },
    { title: 'attention of ONNX Runtime, float activations', recipe: 'w4a16', settings: ['weight.groupSize=16'] },
    { title: 'a quantized cache', recipe: 'w8a8', settings: ['kv.bits=4'] },
    { title: 'a quantized cache, float activations', recipe: 'w4a16', settings: ['kv.bits=8', 'weight.groupSize=16'] },
  ];
  for (const { title, recipe, settings } of cases) {
    it(`q, k and v before ${title}: one product, the same bits`, async () => {
      const order = ['v', 'q', 'k'];
      const apart = rewrite(attentionModel(order), recipe, ...settings, 'merge.qkv=false');
      deepEqual(products(apart), [['v'], ['q'], ['k']]);
      const merged = rewrite(attentionModel(order), recipe, ...settings);
      deepEqual(products(merged), [['q', 'k', 'v']]);
      equal(countOf(merged, 'Split'), 0);
      deepEqual(await attentionOutputs(merged, { title }), await attentionOutputs(apart, { title }));
    });
  }

  it('q, k and v stay apart where something else reads one of them', () => {
    const model = attentionModel(['q', 'k', 'v'], (g) =>
      g.output(g.op('Neg', [g.graph.value('k_y')!]), ['batch', 'tokens', kvHeads * size]),
    );
    deepEqual(products(rewrite(model, 'w8a8')), [['q'], ['k'], ['v']]);
  });

  it('q, k and v stay apart under a low-rank term, which they would share', () => {
    const rounded = rewritePlan(attentionModel(['q', 'k', 'v']), 'lorc.rank=2');
    deepEqual(
      rounded.sites.map((site) => (site.decision === 'quantize' ? site.merge : site.reason)),
      [undefined, undefined, undefined],
    );
  });

  it('gate stands before up, whichever comes first in the graph', () => {
    const g = new TestGraph();
    const x = g.input('x', ['B', 'S', 64]);
    const layer = (name: string, from = x) => g.op('MatMul', [from, g.weight(`w_${name}`, [64, 64])], { name });
    const [up, gate] = [layer('up'), layer('gate')];
    const act = g.op('Mul', [gate, g.op('Sigmoid', [gate])], { name: 'silu' });
    g.output(layer('down', g.op('Mul', [up, act], { name: 'product' })));
    deepEqual(products(rewrite(g.model, 'w8a8')), [['gate', 'up'], ['down']]);
  });

  const readers: readonly [string, (g: TestGraph, gate: Value, up: Value, act: Value) => void][] = [
    ['that is an output', (g, _, up) => g.output(up)],
    ['that another node reads', (g, gate) => g.output(g.op('ReduceMean', [gate, g.integers(-1)]))],
    ['whose activation is an output', (g, _, __, act) => g.output(act)],
    ['whose shape is asked for', (g, _, up) => g.output(g.op('Shape', [up]), [3], 'int64')],
  ];
  for (const [what, read] of readers)
    it(`a gate ${what} is a product of its own`, () => {
      const g = new TestGraph(21);
      const x = g.input('x', ['batch', 'tokens', hidden]);
      const [gate, up] = ['gate', 'up'].map((name) =>
        g.op('MatMul', [x, g.weight(`w_${name}`, [hidden, 64])], { name }),
      ) as [Value, Value];
      const act = g.op('Mul', [gate, g.op('Sigmoid', [gate])], { name: 'silu' });
      g.output(g.op('MatMul', [g.op('Mul', [act, up]), g.weight('w_down', [64, hidden])], { name: 'down' }));
      read(g, gate, up, act);
      deepEqual(products(rewrite(g.model, 'w8a8')), [['gate'], ['up'], ['down']]);
    });
});

const rewritePlan = (model: Model, ...settings: string[]) =>
  makePlan(analyze(model), undefined, withSettings(findRecipe('w8a8'), settings), model);
