/** Graphs that no exporter of models/zoo makes: float16, subgraphs, Gemma's norm, vectors of odd types. */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { Tensor } from 'onnxruntime-common';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings, type Recipe } from '../../graph-rewrite/index.js';
import { Graph, int, lazyTensor, type Model, type Value } from '../../graph-rewrite/ir/index.js';
import type { Feeds } from '../../graph-rewrite/lm/session.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { buildLlama } from '../../models/build-llama.js';
import { presets } from '../../models/llama-config.js';
import { randomSource } from '../../models/weights.js';
import { InferenceSession } from '../../native/js/index.js';
import { fromFloat16Array, toFloat16Array } from '../../ops/common/float16.js';
import { TestGraph } from '../helpers/graph.js';
import { Random } from '../helpers/random.js';
import { randomStats } from '../helpers/stats.js';
import { sqnr, zooFeeds } from '../helpers/zoo.js';

const w8a8 = findRecipe('w8a8');
const sorted = withSettings(w8a8, ['outliers.channels=16', 'oReorder=global']);

async function run(model: Model, feeds: Feeds) {
  const session = await InferenceSession.create(serializeModel(model), { intraOpNumThreads: 1 });
  try {
    return await session.run(feeds);
  } finally {
    await session.release();
  }
}

function rewriteModel(model: Model, recipe: Recipe) {
  const analysis = analyze(model);
  const plan = makePlan(analysis, randomStats(analysis), recipe, model);
  applyPlan(model, plan, analysis);
  return plan;
}

const x = (dims: number[], stream = 'x') => {
  const count = dims.reduce((all, dim) => all * dim, 1);
  return new Tensor('float32', new Random(stream).normals('float32', count), dims);
};

/** Signal to noise of output `y` between the model before and after rewriting. */
async function decibels(build: () => Model, recipe: Recipe, feeds: Feeds): Promise<number> {
  const before = await run(build(), feeds);
  const model = build();
  rewriteModel(model, recipe);
  const after = await run(model, feeds);
  const [name] = Object.keys(before);
  deepEqual(after[name!]!.dims, before[name!]!.dims);
  return sqnr(before[name!]!.data as Float32Array, after[name!]!.data as Float32Array);
}

describe('passes: special graphs', () => {
  it('float16: norms, biases and results stay float16', async () => {
    const build = () => buildLlama(presets['tiny']!, randomSource(3), { dtype: 'float16', attention: 'decomposed' });
    const feeds = zooFeeds(build(), { past: 0 });
    const half: Feeds = Object.fromEntries(
      Object.entries(feeds).map(([name, tensor]) => [
        name,
        tensor.type === 'float32'
          ? new Tensor('float16', toFloat16Array(tensor.data as Float32Array), tensor.dims)
          : tensor,
      ]),
    );
    const before = await run(build(), half);
    const model = build();
    const plan = rewriteModel(model, sorted);
    ok(
      plan.inputs.some((input) => input.decision === 'fuse-norm') &&
        plan.inputs.some((input) => input.decision === 'fuse-gate'),
    );
    const after = await run(model, half);
    equal(after['logits']!.type, 'float16');
    const [expected, actual] = [before, after].map((outputs) =>
      fromFloat16Array(outputs['logits']!.data as Uint16Array),
    );
    const measured = sqnr(expected!, actual!);
    // The float32 graph gives 32 dB as well: it is the network.
    ok(measured > 30, `${measured.toFixed(1)} dB`);
  });

  it("Gemma's norm: the weight becomes 1 + weight", async () => {
    const build = () => {
      const g = new TestGraph();
      const input = g.input('x', ['B', 'S', 64]);
      const mean = g.op('ReduceMean', [g.op('Pow', [input, g.number(2)]), g.integers(-1)]);
      const normed = g.op('Mul', [input, g.op('Reciprocal', [g.op('Sqrt', [g.op('Add', [mean, g.number(1e-6)])])])]);
      const scaled = g.op('Mul', [normed, g.op('Add', [g.weight('gamma', [64], 0.5), g.number(1)])]);
      g.output(g.op('MatMul', [scaled, g.weight('w', [64, 48])]));
      return g.model;
    };
    ok((await decibels(build, sorted, { x: x([2, 5, 64]) })) > 38);
  });

  it('biases of merged and permuted layers follow their rows', async () => {
    const build = () => {
      const g = new TestGraph();
      const input = g.input('x', ['B', 'S', 64]);
      const layer = (name: string, from: Value, K: number, N: number, bias = true) => {
        const y = g.op('MatMul', [from, g.weight(`${name}.w`, [K, N])], { name: `/${name}/MatMul` });
        return bias ? g.op('Add', [g.weight(`${name}.b`, [N], 2), y]) : y;
      };
      const [gate, up] = [layer('gate_proj', input, 64, 96), layer('up_proj', input, 64, 96, false)];
      const act = g.op('Gelu', [gate], { domain: 'com.microsoft' });
      const down = layer('down_proj', g.op('Mul', [act, up]), 96, 64);
      const inner = g.op('Relu', [layer('fc1', down, 64, 96)]);
      g.output(layer('fc2', inner, 96, 64));
      return g.model;
    };
    ok((await decibels(build, sorted, { x: x([2, 5, 64]) })) > 35);
  });

  it('a flattened layer whose rows come back in another shape', async () => {
    const build = () => {
      const g = new TestGraph();
      const normed = g.rmsNorm(g.input('x', ['B', 'S', 64]), g.weight('gamma', [64]));
      const product = g.op('Gemm', [g.op('Reshape', [normed, g.integers(-1, 64)]), g.weight('w', [64, 48])]);
      g.output(g.op('Reshape', [product, g.integers(-1, 2, 24)]));
      return g.model;
    };
    ok((await decibels(build, w8a8, { x: x([2, 5, 64]) })) > 38);
  });

  it('layers in both branches of an If share the packed weight of the outer graph', async () => {
    const build = () => {
      const g = new TestGraph();
      const flag = g.input('flag', [1], 'bool');
      const input = g.input('x', ['B', 'S', 64]);
      const weight = g.weight('w', [64, 48]);
      const branch = (name: string, scale: number) => {
        const inner = new TestGraph(18, new Graph(g.model, name, g.graph));
        const rows = inner.op('Mul', [input, inner.number(scale)], { name: `${name}_scale` });
        inner.output(inner.op('MatMul', [rows, weight], { name: `${name}_layer` }), ['B', 'S', 48]);
        return inner.graph;
      };
      const attributes = {
        then_branch: { type: 'graph', value: branch('then', 1) },
        else_branch: { type: 'graph', value: branch('else', -3) },
      } as const;
      g.output(g.op('If', [flag], { attributes, name: 'if' }), ['B', 'S', 48]);
      return g.model;
    };
    const model = build();
    rewriteModel(model, w8a8);
    const products = [...model.walkGraphs()].flatMap((graph) =>
      graph.nodes.filter((node) => node.opType === 'QuantGemm'),
    );
    deepEqual(products.map((node) => node.graph.name).sort(), ['else', 'then']);
    equal(products[0]!.input(2), products[1]!.input(2));
    equal(products[0]!.input(2)!.graph, model.graph);
    equal(model.graph.ownValue('w'), undefined);
    for (const value of [true, false]) {
      const flag = new Tensor('bool', [value], [1]);
      ok((await decibels(build, w8a8, { flag, x: x([2, 5, 64]) })) > 38, String(value));
    }
  });

  it('a weight stored in float16 and cast', async () => {
    const build = () => {
      const g = new TestGraph();
      const bits = () => toFloat16Array(new Random('w').normals('float16', 64 * 48));
      const half = g.graph.addInitializer(
        'w',
        lazyTensor('float16', [64, 48], () => new Uint8Array(bits().buffer)),
      );
      g.output(g.op('MatMul', [g.input('x', ['B', 'S', 64]), g.op('Cast', [half], { attributes: { to: int(1) } })]));
      return g.model;
    };
    ok((await decibels(build, w8a8, { x: x([2, 5, 64]) })) > 38);
  });

  it('no rows at all', async () => {
    const g = new TestGraph();
    const normed = g.rmsNorm(g.input('x', ['B', 'S', 64]), g.weight('gamma', [64]));
    g.output(g.op('MatMul', [normed, g.weight('w', [64, 48])]));
    rewriteModel(g.model, sorted);
    const outputs = await run(g.model, { x: x([0, 5, 64]) });
    deepEqual(Object.values(outputs)[0]!.dims, [0, 5, 48]);
  });
});
