/** QuantGemm that quantizes floats itself and multiplies outlier columns as floats (LLM.int8()). */
import assert from 'node:assert/strict';
import { Tensor, type InferenceSession } from '../../native/js/index.js';
import { fromFloat16Array, toFloat16Array } from '../../ops/common/float16.js';
import { quantGemmDynamic, splitRows } from '../../ops/quant-gemm/outlier-columns.js';
import { eachArchitecture } from '../helpers/kernels.js';
import { constantFloats, floatsOf, floatTensor, opSession, type GraphType } from '../helpers/op-model.js';
import { Random } from '../helpers/random.js';

interface Case {
  readonly K: number;
  readonly N: number;
  readonly threshold: number;
  /** Columns that are large in some rows. */
  readonly large: readonly number[];
}

const cases: readonly Case[] = [
  { K: 37, N: 5, threshold: 6, large: [0, 36] },
  { K: 384, N: 100, threshold: 6, large: [3, 17, 18, 200, 383] },
  { K: 1040, N: 33, threshold: 6, large: [] },
  { K: 64, N: 17, threshold: 0, large: [5] },
  { K: 48, N: 3, threshold: 1e-6, large: [] }, // every column
];
const rowCounts = [0, 1, 2, 7, 17, 65];
const rows = Math.max(...rowCounts);

function makeInputs({ K, N, large }: Case, type: GraphType) {
  const random = new Random(`outlier columns ${K} ${type}`);
  const graphFloats = (values: Float32Array) =>
    type === 'float32' ? values : fromFloat16Array(toFloat16Array(values));
  const a = (random.normals(type, rows * K) as Float32Array).map((value) => Math.max(-5, Math.min(5, value)));
  // In every third row, so that single rows are met with and without.
  for (const k of large) for (let m = 1; m < rows; m += 3) a[m * K + k] = 20 + (k % 7);
  return {
    a: graphFloats(a),
    b: random.codes(N * K, -128, 127),
    bScale: toFloat16Array(Float32Array.from({ length: N }, () => 0.01 * (0.1 + random.next()))),
    bias: graphFloats(random.normals(type, N) as Float32Array),
    residual: graphFloats(random.normals(type, rows * N) as Float32Array),
  };
}
type Inputs = ReturnType<typeof makeInputs>;

function open({ K, N, threshold }: Case, type: GraphType, { b, bScale, bias }: Inputs): Promise<InferenceSession> {
  return opSession({
    op: 'QuantGemm',
    inputs: [
      { name: 'a', dtype: type, dims: ['M', K] },
      undefined,
      { name: 'b', dtype: 'int8', dims: [N, K], constant: b },
      { name: 'b_scale', dtype: 'float16', dims: [N, 1], constant: bScale },
      undefined,
      undefined,
      { name: 'bias', dtype: type, dims: [N], constant: constantFloats(type, bias) },
      { name: 'residual', dtype: type, dims: ['M', N] },
    ],
    outputs: [{ name: 'y', dtype: type, dims: ['M', N] }],
    attributes: { K, N, weight_format: 's8', a_format: 's8_dynamic', threshold },
    floats: ['threshold'],
  });
}

async function run(session: InferenceSession, c: Case, type: GraphType, inputs: Inputs, M: number, first = 0) {
  const part = (values: Float32Array, width: number) => values.subarray(first * width, (first + M) * width);
  const [a, residual] = [part(inputs.a, c.K), part(inputs.residual, c.N)];
  const { y } = await session.run({
    a: floatTensor(type, a, [M, c.K]),
    residual: floatTensor(type, residual, [M, c.N]),
  });
  return { y: floatsOf(y!), expected: quantGemmDynamic({ ...inputs, a, residual }, c, type) };
}

describe('outlier columns: the reference', () => {
  it('takes a column out of every row when one entry reaches the threshold, and out of the scales', () => {
    //                                reaches 6 exactly ↓
    const a = Float32Array.of(1, -2, 0.5, /**/ 0.25, 6, 1, /**/ -5.999, 3, 2);
    const { q, scale, columns } = splitRows(a, 3, 6);
    assert.deepEqual(columns, [1]);
    assert.deepEqual([...q], [127, 0, 64, 32, 0, 127, -127, 0, 42]); // 63.5 rounds half to even; 31.75; 42.34
    assert.deepEqual(
      [...scale],
      [1, 1, Math.fround(5.999)].map((amax) => Math.fround(Math.fround(amax) * Math.fround(1 / 127))),
    );
    assert.deepEqual(splitRows(a, 3, 0).columns, []);
  });
});

describe('QuantGemm with outlier columns', () => {
  for (const type of ['float32', 'float16'] as const) {
    eachArchitecture('QuantGemm', `${type}: ${cases.length} products x ${rowCounts.length} row counts`, async () => {
      for (const c of cases) {
        const inputs = makeInputs(c, type);
        const session = await open(c, type, inputs);
        for (const M of rowCounts) {
          const { y, expected } = await run(session, c, type, inputs, M);
          assert.equal(y.length, M * c.N);
          y.forEach((value, i) => {
            const [want, bound] = [expected.y[i]!, expected.bound[i]!];
            assert.ok(
              Math.abs(value - want) <= bound,
              `K ${c.K} M ${M} y[${i}] is ${value}, expected ${want} ± ${bound}`,
            );
          });
        }
        await session.release();
      }
    });
  }

  it('codes are exact: a threshold that nothing reaches gives what Quantize and the s8 product give', async () => {
    const c = cases[1]!;
    const inputs = makeInputs(c, 'float32');
    const dynamic = await open({ ...c, threshold: 1000 }, 'float32', inputs);
    const { q, scale } = splitRows(inputs.a.subarray(0, 7 * c.K), c.K, 0);
    const plain = await opSession({
      op: 'QuantGemm',
      inputs: [
        { name: 'a', dtype: 'int8', dims: ['M', c.K] },
        { name: 'a_scale', dtype: 'float32', dims: ['M', 1] },
        { name: 'b', dtype: 'int8', dims: [c.N, c.K], constant: inputs.b },
        { name: 'b_scale', dtype: 'float16', dims: [c.N, 1], constant: inputs.bScale },
        undefined,
        undefined,
        { name: 'bias', dtype: 'float32', dims: [c.N], constant: inputs.bias },
        { name: 'residual', dtype: 'float32', dims: ['M', c.N] },
      ],
      outputs: [{ name: 'y', dtype: 'float32', dims: ['M', c.N] }],
      attributes: { K: c.K, N: c.N, weight_format: 's8', a_format: 's8' },
    });
    const { y } = await run(dynamic, c, 'float32', inputs, 7);
    const expected = await plain.run({
      a: new Tensor('int8', q, [7, c.K]),
      a_scale: new Tensor('float32', scale, [7, 1]),
      residual: new Tensor('float32', inputs.residual.subarray(0, 7 * c.N), [7, c.N]),
    });
    assert.deepEqual(y, floatsOf(expected.y!));
    await dynamic.release();
    await plain.release();
  });

  it('the number of outlier columns may change from run to run', async () => {
    const c = cases[1]!;
    const inputs = makeInputs(c, 'float32');
    const session = await open(c, 'float32', inputs);
    // Row 0 has none, row 1 has five, row 2 none again.
    for (const first of [0, 1, 2]) {
      const { y, expected } = await run(session, c, 'float32', inputs, 1, first);
      y.forEach((value, i) => assert.ok(Math.abs(value - expected.y[i]!) <= expected.bound[i]!));
    }
    await session.release();
  });

  it('a NaN makes its own row NaN, an infinity too, and no other row', async () => {
    const c = cases[1]!;
    const inputs = makeInputs(c, 'float32');
    inputs.a[0 * c.K + 100] = NaN;
    inputs.a[2 * c.K + 3] = Infinity; // an outlier column of its own accord
    const session = await open(c, 'float32', inputs);
    const { y } = await run(session, c, 'float32', inputs, 4);
    const finite = (m: number) => y.subarray(m * c.N, (m + 1) * c.N).every((value) => Number.isFinite(value));
    assert.ok(y.subarray(0, c.N).every((value) => Number.isNaN(value)));
    assert.ok(finite(1) && !finite(2) && finite(3));
    await session.release();
  });

  it('refuses groups, other weights, and thresholds elsewhere', async () => {
    const c = cases[1]!;
    const session = (attributes: Record<string, number | string>) =>
      opSession({
        op: 'QuantGemm',
        inputs: [
          { name: 'a', dtype: 'float32', dims: ['M', c.K] },
          undefined,
          { name: 'b', dtype: 'int8', dims: [c.N, c.K], constant: makeInputs(c, 'float32').b },
          { name: 'b_scale', dtype: 'float16', dims: [c.N, 1], constant: makeInputs(c, 'float32').bScale },
          undefined,
          undefined,
          { name: 'bias', dtype: 'float32', dims: [0], constant: new Float32Array(0) },
        ],
        outputs: [{ name: 'y', dtype: 'float32', dims: ['M', c.N] }],
        attributes: { K: c.K, N: c.N, weight_format: 's8', ...attributes },
        floats: ['threshold'],
      });
    await assert.rejects(session({ a_format: 's8_dynamic', group_size: 128 }), /expected "s8" and 0 for the others/);
    await assert.rejects(
      session({ a_format: 'none', threshold: 6 }),
      /threshold is 6 .*expected 0, or more with s8_dynamic/,
    );
    await assert.rejects(session({ a_format: 's8_dynamic', threshold: -1 }), /threshold is -1/);
  });
});
