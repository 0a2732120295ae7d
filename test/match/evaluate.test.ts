/** What is computed of integer subgraphs, against ONNX Runtime. */
import { deepEqual, equal } from 'node:assert/strict';
import { Tensor } from 'onnxruntime-common';
import { int, ints, tensorOf, type DType, type Value } from '../../graph-rewrite/ir/index.js';
import { Evaluator } from '../../graph-rewrite/match/evaluate.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { TestGraph } from '../helpers/graph.js';
import { createOrtSession } from '../helpers/ort.js';

interface Given {
  readonly g: TestGraph;
  /** [2, 3, 4] of −12 … 11, and [3, 1] of −1, 0, 1. */
  readonly x: Value;
  readonly z: Value;
  /** Constants. */
  readonly c: (...values: number[]) => Value;
  readonly one: (value: number) => Value;
}

const xValues = Array.from({ length: 24 }, (_, i) => ((i * 7) % 24) - 12);
const zValues = [-1, 0, 1];

type Case = readonly [name: string, build: (given: Given) => Value, dtype?: DType];

const binary = ['Add', 'Sub', 'Mul', 'Equal', 'Less', 'LessOrEqual', 'Greater', 'GreaterOrEqual'];
const logic = ['And', 'Or', 'Xor'];
const isTrue = ({ g, one }: Given, value: Value, name: string): Value => g.op('Greater', [value, one(0)], { name });

const cases: readonly Case[] = [
  ...binary.map((type): Case => [type, ({ g, x, z }) => g.op(type, [x, z]), /^[ASM]/.test(type) ? 'int64' : 'bool']),
  ...logic.map((type): Case => [
    type,
    (given) => given.g.op(type, [isTrue(given, given.x, 'a'), isTrue(given, given.z, 'b')]),
    'bool',
  ]),
  ['Div', ({ g, x, one }) => g.op('Div', [x, one(5)])],
  ['Neg', ({ g, x }) => g.op('Neg', [x])],
  ['Abs', ({ g, x }) => g.op('Abs', [x])],
  ['Not', (given) => given.g.op('Not', [isTrue(given, given.x, 'a')]), 'bool'],
  ['Where', (given) => given.g.op('Where', [isTrue(given, given.z, 'a'), given.x, given.z])],
  ['Cast to bool', ({ g, x }) => g.op('Cast', [x], { attributes: { to: int(9) } }), 'bool'],
  ['Gather', ({ g, x, c }) => g.op('Gather', [x, c(2, -1)], { attributes: { axis: int(1) } })],
  ['Gather of one', ({ g, x, one }) => g.op('Gather', [x, one(-1)], { attributes: { axis: int(-1) } })],
  ['GatherND', ({ g, x }) => g.op('GatherND', [x, numbers(g, [2, 2], 0, 1, 1, -1)])],
  [
    'GatherND in batches',
    ({ g, x }) => g.op('GatherND', [x, numbers(g, [2, 1, 1], 2, 0)], { attributes: { batch_dims: int(1) } }),
  ],
  ['Slice', ({ g, x, c }) => g.op('Slice', [x, c(1, -3), c(9, -1), c(1, 2)])],
  ['Slice of nothing', ({ g, x, c }) => g.op('Slice', [x, c(2), c(1), c(1)])],
  ['Concat', ({ g, x }) => g.op('Concat', [x, x, x], { attributes: { axis: int(-2) } })],
  ['Transpose', ({ g, x }) => g.op('Transpose', [x], { attributes: { perm: ints([1, 2, 0]) } })],
  ['Transpose without an order', ({ g, x }) => g.op('Transpose', [x])],
  ['Reshape', ({ g, x, c }) => g.op('Reshape', [x, c(0, -1)])],
  ['Unsqueeze', ({ g, x, c }) => g.op('Unsqueeze', [x, c(-1, 1)])],
  ['Squeeze', ({ g, z, c }) => g.op('Squeeze', [z, c(-1)])],
  ['Squeeze of all', ({ g, z }) => g.op('Squeeze', [z])],
  ['Flatten', ({ g, x }) => g.op('Flatten', [x], { attributes: { axis: int(2) } })],
  ['Expand', ({ g, z, c }) => g.op('Expand', [z, c(2, 1, 4)])],
  ['Range', ({ g, one }) => g.op('Range', [one(7), one(-4), one(-3)])],
  ['ConstantOfShape', ({ g, x }) => g.op('ConstantOfShape', [g.op('Shape', [x])]), 'float32'],
  ['Shape of a part', ({ g, x }) => g.op('Shape', [x], { attributes: { start: int(-2), end: int(3) } })],
  ['Trilu', ({ g, x, one }) => g.op('Trilu', [x, one(1)])],
  ['Trilu of the lower part', ({ g, x, one }) => g.op('Trilu', [x, one(-1)], { attributes: { upper: int(0) } })],
  ['CumSum', ({ g, x, one }) => g.op('CumSum', [x, one(-2)])],
  ['ReduceSum', ({ g, x, c }) => g.op('ReduceSum', [x, c(-1, 0)])],
  ['ReduceSum without axes', ({ g, x, c }) => g.op('ReduceSum', [x, c(1)], { attributes: { keepdims: int(0) } })],
  ['ReduceSum of all', ({ g, x }) => g.op('ReduceSum', [x])],
  [
    'ScatterND',
    ({ g, x }) => g.op('ScatterND', [x, numbers(g, [2, 2], 0, 2, 1, -3), numbers(g, [2, 4], 1, 2, 3, 4, 5, 6, 7, 8)]),
  ],
];

function numbers(g: TestGraph, dims: readonly number[], ...values: number[]): Value {
  return g.graph.addInitializer('numbers', tensorOf(BigInt64Array.from(values, BigInt), dims));
}

function given(g: TestGraph): Given {
  return {
    ...{ g, x: g.input('x', [2, 3, 4], 'int64'), z: g.input('z', [3, 1], 'int64') },
    c: (...values) => numbers(g, [values.length], ...values),
    one: (value) => numbers(g, [], value),
  };
}

function evaluate({ x, z }: Given, y: Value): ReturnType<Evaluator['run']> {
  const values = new Map([
    [x, { dims: [2, 3, 4], values: xValues }],
    [z, { dims: [3, 1], values: zValues }],
  ]);
  return new Evaluator(values, () => undefined).run(y);
}

describe('match/evaluate: integer subgraphs are what ONNX Runtime computes', () => {
  for (const [name, build, dtype = 'int64'] of cases) {
    it(name, async () => {
      const all = given(new TestGraph());
      const y = build(all);
      all.g.output(y, undefined, dtype);
      const found = evaluate(all, y)!;
      const session = await createOrtSession(serializeModel(all.g.model));
      const feeds = {
        x: new Tensor('int64', BigInt64Array.from(xValues, BigInt), [2, 3, 4]),
        z: new Tensor('int64', BigInt64Array.from(zValues, BigInt), [3, 1]),
      };
      const real = (await session.run(feeds, [y.name]))[y.name] as Tensor;
      await session.release();
      deepEqual(found.dims, real.dims);
      // −0 of a double is the integer 0.
      deepEqual(
        Array.from(found.values, (value) => value + 0),
        Array.from(real.data as BigInt64Array, Number),
      );
    });
  }

  const refused: readonly Case[] = [
    ['an axis that is none', ({ g, x }) => g.op('Concat', [x, x], { attributes: { axis: int(7) } })],
    ['sizes below zero', ({ g, c }) => g.op('ConstantOfShape', [c(-3)])],
    ['a range without end', ({ g, one }) => g.op('Range', [one(0), one(2 ** 50), one(1)])],
    [
      'more than fits',
      ({ g, x, one }) => {
        const many = g.op('Expand', [one(0), numbers(g, [1], 2 ** 22)], { name: 'many' });
        return g.op('Gather', [x, many]);
      },
    ],
    ['an index outside', ({ g, x, c }) => g.op('Gather', [x, c(2)])],
    ['an operator without a rule', ({ g, x }) => g.op('BitwiseNot', [x])],
  ];
  for (const [name, build] of refused) {
    it(`computes nothing of ${name}`, () => {
      const all = given(new TestGraph());
      equal(evaluate(all, build(all)), undefined);
    });
  }
});
