/** Inferred shapes against those that ONNX Runtime computes: what is said of a size must be so. */
import { deepEqual, equal } from 'node:assert/strict';
import { Tensor } from 'onnxruntime-common';
import { Shapes, type Dims } from '../../graph-rewrite/analyze/shapes.js';
import { tensorOf, type Attribute, type Value } from '../../graph-rewrite/ir/index.js';
import type { Feeds } from '../../graph-rewrite/lm/session.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { TestGraph } from '../helpers/graph.js';
import { createOrtSession } from '../helpers/ort.js';

/** Sizes of the names; no two sums or products of them are equal. */
const sizes: Readonly<Record<string, number>> = { B: 2, S: 3, none: 0 };

const int = (value: number): Attribute => ({ type: 'int', value });
const ints = (...value: number[]): Attribute => ({ type: 'ints', value });
const int64 = (g: TestGraph, ...values: number[]): Value =>
  g.graph.addInitializer('numbers', tensorOf(BigInt64Array.from(values, BigInt), [values.length]));

/** A case: a graph over x [B, S, 8], and the dims of its value; `?` for a size that is not known. */
const cases: readonly (readonly [name: string, build: (g: TestGraph, x: Value) => Value, dims: Dims])[] = [
  ['a function of each element', (g, x) => g.op('Relu', [x]), ['B', 'S', 8]],
  ['a sum with a vector', (g, x) => g.op('Add', [x, g.weight('w', [8])]), ['B', 'S', 8]],
  ['a sum that broadcasts both sides', (g, x) => g.op('Add', [g.input('z', ['B', 1, 8]), x]), ['B', 'S', 8]],
  ['a product', (g, x) => g.op('MatMul', [x, g.weight('w', [8, 4])]), ['B', 'S', 4]],
  ['a product of stacks', (g, x) => g.op('MatMul', [g.input('z', [5, 'B', 7, 'S']), x]), [5, 'B', 7, 8]],
  [
    'Gemm with a transposed weight',
    (g) => g.op('Gemm', [g.input('z', ['B', 8]), g.weight('w', [4, 8])], { attributes: { transB: int(1) } }),
    ['B', 4],
  ],
  ['Reshape that keeps axes', (g, x) => g.op('Reshape', [x, int64(g, 0, 0, 2, -1)]), ['B', 'S', 2, 4]],
  ['Reshape that joins axes', (g, x) => g.op('Reshape', [x, int64(g, -1, 8)]), ['B * S', 8]],
  ['Reshape that joins a name and a number', (g, x) => g.op('Reshape', [x, int64(g, 0, -1)]), ['B', '8 * S']],
  [
    'Reshape to computed sizes',
    (g, x) => {
      const shape = g.op('Shape', [x]);
      const rows = g.op('Gather', [shape, int64(g, 1)], { name: 'rows' });
      const target = g.op('Concat', [int64(g, 2), rows, int64(g, -1)], {
        name: 'target',
        attributes: { axis: int(0) },
      });
      return g.op('Reshape', [x, target]);
    },
    [2, 'S', '4 * B'],
  ],
  ['Unsqueeze', (g, x) => g.op('Unsqueeze', [x, int64(g, 0, -1)]), [1, 'B', 'S', 8, 1]],
  ['Squeeze', (g) => g.op('Squeeze', [g.input('z', ['B', 1, 'S', 1]), int64(g, 1, -1)]), ['B', 'S']],
  ['Concat of numbers', (g, x) => g.op('Concat', [x, x], { attributes: { axis: int(-1) } }), ['B', 'S', 16]],
  ['Concat of names', (g, x) => g.op('Concat', [x, x], { attributes: { axis: int(1) } }), ['B', 'S + S', 8]],
  [
    'Split in equal parts',
    (g, x) => g.op('Split', [x], { attributes: { axis: int(-1), num_outputs: int(2) }, outputs: ['a', 'b'] }),
    ['B', 'S', 4],
  ],
  [
    'Split in given parts',
    (g, x) => g.op('Split', [x, int64(g, 2, 6)], { attributes: { axis: int(2) }, outputs: ['a', 'b'] }),
    ['B', 'S', 2],
  ],
  [
    'Split of an unknown size',
    (g, x) => g.op('Split', [x], { attributes: { axis: int(1), num_outputs: int(2) }, outputs: ['a', 'b'] }),
    ['B', '?', 8],
  ],
  [
    'Split in parts that differ',
    (g, x) => g.op('Split', [x], { attributes: { axis: int(2), num_outputs: int(3) }, outputs: ['a', 'b', 'c'] }),
    ['B', 'S', '?'],
  ],
  ['Transpose', (g, x) => g.op('Transpose', [x], { attributes: { perm: ints(1, 2, 0) } }), ['S', 8, 'B']],
  ['Transpose without an order', (g, x) => g.op('Transpose', [x]), [8, 'S', 'B']],
  ['Gather of several', (g, x) => g.op('Gather', [x, int64(g, 1, 0)], { attributes: { axis: int(1) } }), ['B', 2, 8]],
  ['Slice', (g, x) => g.op('Slice', [x, int64(g, 1), int64(g, 9), int64(g, -2)]), ['B', '?', 8]],
  ['ReduceMean', (g, x) => g.op('ReduceMean', [x, int64(g, -1)]), ['B', 'S', 1]],
  [
    'ReduceSum without the axis',
    (g, x) => g.op('ReduceSum', [x, int64(g, 1)], { attributes: { keepdims: int(0) } }),
    ['B', 8],
  ],
  ['Expand', (g) => g.op('Expand', [g.input('z', ['B', 1]), int64(g, 4, 1, 5)]), [4, 'B', 5]],
  ['Flatten', (g, x) => g.op('Flatten', [x], { attributes: { axis: int(2) } }), ['B * S', 8]],
  ['Flatten of all', (g, x) => g.op('Flatten', [x], { attributes: { axis: int(0) } }), [1, '8 * B * S']],
  [
    'attention of queries that are packed with keys and values',
    (g) => {
      const last = g.graph.addInitializer('last', tensorOf(Int32Array.of(2, 2), [2]));
      const total = g.graph.addInitializer('total', tensorOf(Int32Array.of(3), [1]));
      const past = ['key', 'value'].map((name) => g.input(name, ['B', 1, 'none', 8]));
      const packed = g.input('packed', ['B', 'S', 32]);
      return g.op('GroupQueryAttention', [packed, undefined, undefined, ...past, last, total], {
        domain: 'com.microsoft',
        attributes: { num_heads: int(2), kv_num_heads: int(1) },
        outputs: ['y', 'present_key', 'present_value'],
      });
    },
    ['B', 'S', 16],
  ],
  [
    'zeros of a shape',
    (g, x) => g.op('ConstantOfShape', [g.op('Shape', [x], { attributes: { start: int(1) } })]),
    ['S', 8],
  ],
];

/** The size that a text stands for; undefined if it has a name of its own. */
function valueOf(dim: number | string): number | undefined {
  if (typeof dim === 'number') return dim;
  const factors = (term: string) => term.split(' * ').map((name) => sizes[name] ?? Number(name));
  const sum = dim
    .split(' + ')
    .map((term) => factors(term).reduce((all, factor) => all * factor, 1))
    .reduce((all, term) => all + term, 0);
  return Number.isNaN(sum) ? undefined : sum;
}

describe('analyze: shapes are those of the running model', () => {
  for (const [name, build, dims] of cases) {
    it(name, async () => {
      const g = new TestGraph();
      const y = build(g, g.input('x', ['B', 'S', 8]));
      g.output(y);
      const inferred = new Shapes(g.model).dims(y)!;
      deepEqual(
        inferred.map((dim) => (valueOf(dim) === undefined ? '?' : dim)),
        dims,
      );
      const session = await createOrtSession(serializeModel(g.model));
      const feeds: Feeds = {};
      for (const value of g.graph.inputs) {
        const shape = value.shape!.map((dim) => valueOf(dim!)!);
        const count = shape.reduce((all, dim) => all * dim, 1);
        feeds[value.name] = new Tensor('float32', new Float32Array(count), shape);
      }
      const { dims: real } = (await session.run(feeds, [y.name]))[y.name] as Tensor;
      await session.release();
      equal(real.length, dims.length);
      inferred.forEach((dim, axis) => equal(valueOf(dim) ?? real[axis], real[axis], `axis ${axis}`));
    });
  }
});
