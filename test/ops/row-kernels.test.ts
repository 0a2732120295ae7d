/** Every kernel of every row operator against its reference: codes, scales and floats bit for bit. */
import assert from 'node:assert/strict';
import { type InferenceSession, Tensor } from '../../native/js/index.js';
import { actQuantize } from '../../ops/act-quantize/reference.js';
import { activationNames } from '../../ops/common/activations.js';
import { segmentsOf, type QuantizedRows } from '../../ops/formats/segments.js';
import { gatedActQuantize } from '../../ops/gated-act-quantize/reference.js';
import { normQuantize } from '../../ops/norm-quantize/reference.js';
import { quantize } from '../../ops/quantize/reference.js';
import { eachArchitecture } from '../helpers/kernels.js';
import {
  constantFloats,
  floatsOf,
  floatTensor,
  opSession,
  type GraphType,
  type InputSpec,
  type OpSpec,
} from '../helpers/op-model.js';
import { Random, rows, seed } from '../helpers/random.js';
import { assertSameCodes, assertSameFloats } from '../helpers/same-floats.js';
import { caseTitle, rowCases, rowCounts, type RowCase } from '../helpers/shapes.js';

const graphTypes: readonly GraphType[] = ['float32', 'float16'];
/** The layout of leading dimensions does not matter to rows; one M is given as two dimensions. */
const lead = (M: number): number[] => (M === 64 ? [4, 16] : [1, M]);

const formatAttributes = (c: RowCase) => ({
  format: c.format,
  group_size: c.groupSize,
  outlier_channels: c.outlierChannels,
  clip: c.clip,
});
const quantizedOutputs = (c: RowCase) => [
  { name: 'q', dtype: 'int8' as const, dims: ['A', 'B', c.K] },
  { name: 'scale', dtype: 'float32' as const, dims: ['A', 'B', segmentsOf(c, c.K).length] },
];
const activationInput = (name: string, type: GraphType, K: number): InputSpec => ({
  name,
  dtype: type,
  dims: ['A', 'B', K],
});

/** Rows for the largest row count; smaller ones take a stretch of them, another one each, so that each sees other kinds of rows. */
const rowTotal = Math.max(...rowCounts) + rowCounts.length;

interface Expected extends QuantizedRows {
  readonly sum?: Float32Array;
  readonly y?: Float32Array;
}

/** One node, what to feed it for `rowTotal` rows, and what must come out. */
interface Scenario {
  readonly title: string;
  readonly case: RowCase;
  readonly type: GraphType;
  readonly spec: OpSpec;
  readonly run: (random: Random) => {
    /** Inputs with rows of their own width. */
    feeds: Readonly<Record<string, Float32Array>>;
    fixed?: Readonly<Record<string, Tensor>>;
    expected: Expected;
  };
}

interface Prepared extends Scenario, ReturnType<Scenario['run']> {
  readonly session: InferenceSession;
}

async function compare(prepared: Prepared, start: number, M: number): Promise<void> {
  const { title, case: c, type, expected, session } = prepared;
  const cut = <A extends Float32Array | Int8Array>(values: A): A => {
    const width = values.length / rowTotal;
    return values.subarray(start * width, (start + M) * width) as A;
  };
  const feeds = Object.entries(prepared.feeds).map(([name, values]) => {
    return [name, floatTensor(type, cut(values), [...lead(M), values.length / rowTotal])] as const;
  });
  const outputs = await session.run({ ...Object.fromEntries(feeds), ...prepared.fixed });
  const where = `${title}, rows ${start} to ${start + M}`;
  assert.deepEqual(outputs.q!.dims, [...lead(M), c.K]);
  assertSameFloats(outputs.scale!.data as Float32Array, cut(expected.scale), `${where}: scale`);
  assertSameCodes(outputs.q!.data as Int8Array, cut(expected.q), `${where}: q`);
  for (const name of ['sum', 'y'] as const) {
    if (outputs[name]) assertSameFloats(floatsOf(outputs[name]), cut(expected[name]!), `${where}: ${name}`);
  }
}

/** Computes all expectations once, then runs every architecture of the operator against them. */
function check(op: string, scenarios: readonly Scenario[]): void {
  describe(`${op} kernels (seed ${seed})`, () => {
    const prepared: Prepared[] = [];
    before(async () => {
      for (const scenario of scenarios) {
        const session = await opSession(scenario.spec);
        prepared.push({ ...scenario, session, ...scenario.run(new Random(scenario.title)) });
      }
    });
    after(async () => {
      for (const { session } of prepared) await session.release();
    });
    eachArchitecture(op, `${scenarios.length} nodes x ${rowCounts.length} row counts equal the reference`, async () => {
      for (const one of prepared) {
        for (const [start, M] of rowCounts.entries()) await compare(one, start, M);
      }
    });
  });
}

const everyCase = <T>(make: (c: RowCase, type: GraphType, index: number) => T): T[] =>
  rowCases.flatMap((c, index) => graphTypes.map((type) => make(c, type, index)));

check(
  'Quantize',
  everyCase((c, type, index): Scenario => {
    // Even cases reorder: constant at some, fed at others.
    const order = index % 2 === 0 ? new Random(`order ${index}`).permutation(c.K) : undefined;
    const constant = index % 4 === 0;
    return {
      title: `${type} ${caseTitle(c)}${order ? ' reordered' : ''}`,
      case: c,
      type,
      spec: {
        op: 'Quantize',
        inputs: [
          activationInput('x', type, c.K),
          order && { name: 'order', dtype: 'int32', dims: [c.K], constant: constant ? order : undefined },
        ],
        outputs: quantizedOutputs(c),
        attributes: formatAttributes(c),
        floats: ['clip'],
      },
      run: (random) => {
        const x = rows(random, type, rowTotal, c.K);
        const fixed = order && !constant ? { order: new Tensor('int32', order, [c.K]) } : {};
        return { feeds: { x }, fixed, expected: quantize(x, c.K, c, order) };
      },
    };
  }),
);

check(
  'NormQuantize',
  (['rms', 'layer'] as const).flatMap(
    (norm) =>
      everyCase((c, type, index): Scenario => {
        const has = {
          bias: norm === 'layer' ? index % 3 !== 0 : index % 5 === 1,
          order: index % 2 === 0,
          residual: index % 3 !== 1,
          sum: index % 3 !== 2,
          y: index % 4 !== 3,
        };
        const random = new Random(`norm ${norm} ${type} ${index}`);
        const weight = random.normals(type, c.K);
        const bias = has.bias ? random.normals(type, c.K) : undefined;
        const order = has.order ? random.permutation(c.K) : undefined;
        const epsilon = index === 0 ? 0 : 1e-6;
        const words = Object.entries(has).flatMap(([name, there]) => (there ? [name] : []));
        const dims = ['A', 'B', c.K];
        return {
          title: `${norm} ${type} ${caseTitle(c)} ${words.join(' ')}`,
          case: c,
          type,
          spec: {
            op: 'NormQuantize',
            inputs: [
              activationInput('x', type, c.K),
              { name: 'weight', dtype: type, dims: [c.K], constant: constantFloats(type, weight) },
              bias && { name: 'bias', dtype: type, dims: [c.K], constant: constantFloats(type, bias) },
              order && { name: 'order', dtype: 'int32', dims: [c.K], constant: order },
              has.residual ? activationInput('residual', type, c.K) : undefined,
            ],
            outputs: [
              ...quantizedOutputs(c),
              has.sum ? { name: 'sum', dtype: type, dims } : undefined,
              has.y ? { name: 'y', dtype: type, dims } : undefined,
            ],
            attributes: { norm, epsilon, ...formatAttributes(c) },
            floats: ['clip', 'epsilon'],
          },
          run: (rowRandom) => {
            const x = rows(rowRandom, type, rowTotal, c.K);
            const residual = has.residual ? rowRandom.normals(type, x.length) : undefined;
            const inputs = { x, weight, bias, residual, reorderIndex: order, graphType: type };
            const expected = normQuantize(inputs, { norm, epsilon, ...c });
            return { feeds: { x, ...(residual ? { residual } : {}) }, expected };
          },
        };
      }).filter((_, i) => (i + Math.floor(i / 2)) % 2 === (norm === 'rms' ? 0 : 1)), // each case and type in one of the norms
  ),
);

check(
  'GatedActQuantize',
  everyCase((c, type, index): Scenario => {
    const activation = activationNames[index % activationNames.length]!;
    const split = index % 2 === 0;
    const gateWidth = split ? c.K : 2 * c.K;
    return {
      title: `${activation} ${type} ${caseTitle(c)} ${split ? 'two inputs' : 'one input'}`,
      case: c,
      type,
      spec: {
        op: 'GatedActQuantize',
        inputs: [activationInput('gate', type, gateWidth), ...(split ? [activationInput('up', type, c.K)] : [])],
        outputs: quantizedOutputs(c),
        attributes: { activation, ...formatAttributes(c) },
        floats: ['clip'],
      },
      run: (random) => {
        const gate = rows(random, type, rowTotal, gateWidth);
        const up = split ? random.normals(type, gate.length) : undefined;
        const expected = gatedActQuantize(gate, up, c.K, { activation, ...c });
        return { feeds: { gate, ...(up ? { up } : {}) }, expected };
      },
    };
  }),
);

check(
  'ActQuantize',
  activationNames.flatMap((activation, shift) =>
    everyCase((c, type): Scenario => ({
      title: `${activation} ${type} ${caseTitle(c)}`,
      case: c,
      type,
      spec: {
        op: 'ActQuantize',
        inputs: [activationInput('x', type, c.K)],
        outputs: quantizedOutputs(c),
        attributes: { activation, ...formatAttributes(c) },
        floats: ['clip'],
      },
      run: (random) => {
        const x = rows(random, type, rowTotal, c.K);
        return { feeds: { x }, expected: actQuantize(x, c.K, { activation, ...c }) };
      },
    })).filter((_, index) => index % activationNames.length === shift),
  ),
);

describe('row operators refuse', () => {
  const c = rowCases[3]!; // K 48
  const node = (attributes: Record<string, number | string>, order?: Int32Array): OpSpec => ({
    op: 'Quantize',
    inputs: [
      activationInput('x', 'float32', c.K),
      order && { name: 'order', dtype: 'int32', dims: [order.length], constant: order },
    ],
    outputs: quantizedOutputs(c),
    attributes: { ...formatAttributes(c), ...attributes },
    floats: ['clip'],
  });
  const creation: readonly [string, OpSpec, RegExp][] = [
    ['an index out of range', node({}, new Int32Array(c.K).fill(48, 5)), /reorder_index\[5\] is 48, expected 0 … 47/],
    ['a negative index', node({}, new Int32Array(c.K).fill(-1, 2, 3)), /reorder_index\[2\] is -1, expected 0 … 47/],
    [
      'an unknown format',
      node({ format: 's5' }),
      /the Quantize.*format is 's5', expected one of s4, s8, e4m3, e5m2, s4_e4m3/,
    ],
    [
      'a group that is not a multiple of 16',
      node({ group_size: 8 }),
      /group_size is 8, expected 0 or a multiple of 16/,
    ],
    ['a clip above 1', node({ clip: 1.5 }), /clip is 1.5, expected 0.01 … 1/],
  ];
  for (const [what, spec, message] of creation) {
    it(`${what}, when the session is made`, async () => {
      await assert.rejects(opSession(spec), message);
    });
  }

  const x = () => ({ x: floatTensor('float32', new Float32Array(c.K), [1, 1, c.K]) });
  const running: readonly [string, OpSpec, () => Record<string, Tensor>, RegExp][] = [
    [
      'a group that does not divide',
      node({ group_size: 64, outlier_channels: 0 }),
      x,
      /group_size is 64, expected .* \(48\)/,
    ],
    ['nothing but outliers', node({ outlier_channels: 48 }), x, /outlier_channels is 48, expected less than K \(48\)/],
    [
      'a fed index out of range',
      {
        ...node({}),
        inputs: [activationInput('x', 'float32', c.K), { name: 'order', dtype: 'int32', dims: [c.K] }],
      },
      () => ({ ...x(), order: new Tensor('int32', new Int32Array(c.K).fill(1000, 47), [c.K]) }),
      /reorder_index\[47\] is 1000, expected 0 … 47/,
    ],
  ];
  for (const [what, spec, feeds, message] of running) {
    it(`${what}, when it runs`, async () => {
      // Output shapes are left open, or ONNX Runtime objects to them before the operator is asked.
      const open = spec.outputs.map((output) => output && { ...output, dims: ['A', 'B', 'C'] });
      const session = await opSession({ ...spec, outputs: open });
      await assert.rejects(session.run(feeds()), message);
      await session.release();
    });
  }
});
