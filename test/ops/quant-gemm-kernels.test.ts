/** Every QuantGemm kernel against the reference: integer sums exactly, floats within the bound of ops/formats/README.md. */
import assert from 'node:assert/strict';
import type { InferenceSession } from '../../native/js/index.js';
import { toFloat16Array } from '../../ops/common/float16.js';
import { gemmSegments, quantGemm, type QuantGemmInputs, type QuantGemmResult } from '../../ops/quant-gemm/reference.js';
import { eachArchitecture } from '../helpers/kernels.js';
import { floatsOf, opSession, type GraphType, type OpSpec } from '../helpers/op-model.js';
import {
  type Case,
  gemm,
  caseTitle,
  rowTotal,
  scalesPerRow,
  codesOf,
  oneHotScales,
  randomScales,
  lorcOf,
  specOf,
  feedsOf,
} from '../helpers/quant-gemm.js';
import { Random, seed } from '../helpers/random.js';
import { rowCounts } from '../helpers/shapes.js';

/** [K, N, outliers], activations [format, group], weights [format, group]. */
const cases: readonly Case[] = [
  gemm([16, 1, 0], ['s4', 16], ['s4', 16]),
  gemm([48, 3, 16], ['s4', 16], ['s4', 16]),
  gemm([96, 17, 0], ['s8', 48], ['s4', 48]),
  gemm([100, 33, 0], ['s8', 0], ['s4', 0]),
  gemm([101, 5, 4], ['s4', 0], ['s4', 0]), // an odd body: half a byte is left over
  gemm([384, 100, 128], ['s4', 128], ['s4', 128]),
  gemm([1024, 17, 0], ['s8', 0], ['s4', 64]), // groups on the weight side only
  gemm([272, 33, 16], ['s4', 64], ['s4', 0]), // and on the activation side only
  gemm([640, 19, 0], ['s8', 128], ['s4', 0]), // groups of a whole register likewise
  gemm([512, 21, 0], ['s8', 0], ['s4', 128]),
  gemm([1152, 65, 128], ['s8', 128], ['s4', 128]),
  gemm([2304, 31, 0], ['s4', 128], ['s4', 128]),
  gemm([1040, 33, 0], ['s8', 0], ['s8', 0]),
  gemm([416, 18, 32], ['s8', 128], ['s8', 128]),
  gemm([37, 2, 0], ['s8', 0], ['s8', 0]),
  gemm([2113, 18, 0], ['s8', 0], ['s8', 0]), // rows of more than 2048 bytes
  gemm([4101, 5, 0], ['s8', 0], ['s4', 0]),
];
const floatCases: readonly Case[] = [
  gemm([16, 1, 0], ['none', 0], ['s4', 16]),
  gemm([100, 33, 0], ['none', 0], ['s4', 0]),
  gemm([384, 100, 0], ['none', 0], ['s4', 128]),
  gemm([1040, 17, 0], ['none', 0], ['s8', 0]),
  gemm([1088, 19, 0], ['none', 0], ['s8', 32]),
  gemm([1088, 20, 0], ['none', 0], ['s8', 32]),
  gemm([192, 36, 0], ['none', 0], ['s4', 64]),
];

/** Minifloat codes on one side or both: sums in float32. */
const minifloatCases: readonly Case[] = [
  gemm([16, 1, 0], ['e4m3', 0], ['e2m1', 16]),
  gemm([101, 5, 4], ['e4m3', 0], ['e2m1', 0]), // an odd body
  gemm([384, 100, 0], ['e4m3', 0], ['e2m1', 128]),
  gemm([400, 35, 16], ['e4m3', 96], ['e2m1', 96]),
  gemm([272, 33, 0], ['e5m2', 0], ['e3m0', 16]),
  gemm([1040, 18, 0], ['e5m2', 0], ['e4m3', 0]),
  gemm([160, 70, 0], ['e4m3', 0], ['e4m3', 32]),
  gemm([160, 33, 0], ['e4m3', 32], ['s4', 32]),
  gemm([75, 20, 0], ['e5m2', 0], ['s8', 0]),
  gemm([192, 33, 32], ['s8', 0], ['e2m1', 32]),
  gemm([64, 17, 0], ['s4', 0], ['e4m3', 0]),
  gemm([384, 33, 128], ['s4_e4m3', 128], ['s4', 128]),
  gemm([200, 35, 0], ['s4_e4m3', 0], ['s8', 0]),
  gemm([64, 17, 16], ['s4_e4m3', 0], ['e2m1', 0]),
  gemm([100, 33, 0], ['none', 0], ['e2m1', 0]),
  gemm([384, 19, 0], ['none', 0], ['e3m0', 128]),
  gemm([333, 34, 0], ['none', 0], ['e4m3', 0]),
  gemm([333, 36, 0], ['none', 0], ['e4m3', 0]),
  gemm([160, 20, 0], ['e4m3', 0], ['e4m3', 32]),
  gemm([208, 20, 16], ['e4m3', 96], ['e2m1', 96]),
  gemm([75, 4, 16], ['e5m2', 0], ['s8', 0]),
  gemm([256, 37, 32], ['e4m3', 0], ['bnb_fp4', 32]),
  gemm([101, 20, 0], ['none', 0], ['bnb_fp4', 0]),
];

/** With a low-rank term. */
const lorcCases: readonly Case[] = [
  { ...gemm([384, 100, 128], ['s4', 128], ['s4', 128]), lorc: [8, 1] },
  { ...gemm([272, 33, 16], ['s4', 64], ['s4', 0]), lorc: [5, 2] },
  { ...gemm([37, 2, 4], ['s8', 0], ['s8', 0]), lorc: [1, 2] },
  { ...gemm([1024, 48, 64], ['s8', 0], ['s4', 64]), lorc: [64, 1] },
  { ...gemm([384, 100, 0], ['e4m3', 0], ['e2m1', 128]), lorc: [8, 2] },
  { ...gemm([192, 33, 32], ['s8', 0], ['e2m1', 32]), lorc: [3, 1] },
  { ...gemm([384, 17, 0], ['none', 0], ['s4', 128]), lorc: [16, 2] },
];

interface Prepared {
  readonly title: string;
  readonly case: Case;
  readonly type: GraphType;
  readonly inputs: QuantGemmInputs;
  readonly session: InferenceSession;
  readonly expected: QuantGemmResult;
}

async function prepare(c: Case, type: GraphType, exact: boolean): Promise<Prepared> {
  const title = `${exact ? 'exact ' : ''}${type} ${caseTitle(c)}`;
  const random = new Random(title);
  const extras = exact || c.N === 17 ? {} : { residual: random.normals(type, rowTotal * c.N) };
  const bias = exact || c.N === 3 ? new Float32Array(0) : random.normals(type, c.N);
  const scales = exact ? oneHotScales(c) : randomScales(c, random);
  const inputs: QuantGemmInputs = {
    ...codesOf(c, type, random),
    ...{ ...scales, bias, ...extras, lorc: lorcOf(c, random) },
  };
  const session = await opSession(specOf(c, type, inputs));
  return { title, case: c, type, inputs, session, expected: quantGemm(inputs, c, type) };
}

function compare(prepared: Prepared, M: number, y: Float32Array, exact: boolean): void {
  const { title, expected, case: c } = prepared;
  assert.equal(y.length, M * c.N);
  for (let i = 0; i < y.length; i++) {
    const where = `${title}, M ${M}: y[${Math.floor(i / c.N)},${i % c.N}]`;
    const want = expected.y[i]!;
    if (exact) assert.equal(y[i]! + 0, want + 0, where);
    else if (!(Math.abs(y[i]! - want) <= expected.bound[i]!)) {
      assert.fail(`${where} is ${y[i]}, expected ${want} ± ${expected.bound[i]}`);
    }
  }
}

function check(title: string, list: readonly (readonly [Case, GraphType])[], exact: boolean): void {
  describe(`QuantGemm ${title} (seed ${seed})`, () => {
    const prepared: Prepared[] = [];
    before(async () => {
      for (const [c, type] of list) prepared.push(await prepare(c, type, exact));
    });
    after(async () => {
      for (const { session } of prepared) await session.release();
    });
    eachArchitecture('QuantGemm', `${list.length} products x ${rowCounts.length} row counts`, async () => {
      for (const one of prepared) {
        for (const M of rowCounts) {
          const outputs = await one.session.run(feedsOf(one.case, one.type, one.inputs, M));
          compare(one, M, floatsOf(outputs.y!), exact);
        }
      }
    });
  });
}

const bothTypes = (list: readonly Case[]) => list.flatMap((c) => [[c, 'float32'] as const, [c, 'float16'] as const]);

check(
  'integer sums are exact, segment by segment',
  cases.map((c) => [c, 'float32'] as const),
  true,
);
check('float results are within the bound', bothTypes([...cases, ...floatCases]), false);
check('minifloat results are within the bound', bothTypes(minifloatCases), false);
check('results with a low-rank term are within the bound', bothTypes(lorcCases), false);

describe('QuantGemm policies', () => {
  const c = cases[5]!;
  const random = new Random('policies');
  const inputs: QuantGemmInputs = {
    ...codesOf(c, 'float32', random),
    ...randomScales(c, random),
    bias: new Float32Array(0),
  };

  it('the tests look at every segment', () => {
    assert.ok(cases.every((one) => gemmSegments(one).length <= rowTotal));
  });

  eachArchitecture('QuantGemm', 'a NaN scale makes its row NaN, zero codes or not, and no other row', async () => {
    const S = scalesPerRow(c);
    const aScale = inputs.aScale!.slice();
    aScale[1 * S] = NaN; // row 1
    aScale[2 * S + S - 1] = NaN; // row 2, all zero codes: the outlier scale
    const session = await opSession(specOf(c, 'float32', inputs));
    const { y } = await session.run(feedsOf(c, 'float32', { ...inputs, aScale }, 7));
    const values = floatsOf(y!);
    for (let m = 0; m < 7; m++) {
      const row = [...values.subarray(m * c.N, (m + 1) * c.N)];
      assert.ok(
        row.every((value) => Number.isNaN(value) === (m === 1 || m === 2)),
        `row ${m}: ${row.slice(0, 4).join(', ')}`,
      );
    }
    await session.release();
  });

  eachArchitecture('QuantGemm', 'NaN codes give NaN in their row or column, and nowhere else', async () => {
    const one = gemm([100, 20, 0], ['e5m2', 0], ['e4m3', 0]);
    const codes = codesOf(one, 'float32', random);
    (codes.a as Int8Array)[2 * one.K + 98] = 0x7f;
    (codes.b as Int8Array)[17 * one.K + 99] = 0xff - 256;
    const fed: QuantGemmInputs = { ...codes, ...randomScales(one, random), bias: new Float32Array(0) };
    const session = await opSession(specOf(one, 'float32', fed));
    for (const M of [3, 7]) {
      const { y } = await session.run(feedsOf(one, 'float32', fed, M));
      floatsOf(y!).forEach((value, i) => {
        const [m, n] = [Math.floor(i / one.N), i % one.N];
        assert.equal(Number.isNaN(value), m === 2 || n === 17, `y[${m},${n}] of ${M} rows is ${value}`);
      });
    }
    await session.release();
  });

  eachArchitecture('QuantGemm', 'more rows than a block holds are what each of them is among few', async () => {
    const rows = 1100;
    for (const one of [cases[2]!, floatCases[6]!, minifloatCases[3]!]) {
      const few: QuantGemmInputs = {
        ...codesOf(one, 'float32', random),
        ...randomScales(one, random),
        bias: new Float32Array(0),
      };
      const repeated = <T extends Float32Array | Int8Array>(list: T): T => {
        const all = new (list.constructor as new (length: number) => T)((rows * list.length) / rowTotal);
        for (let at = 0; at < all.length; at += list.length) all.set(list.subarray(0, all.length - at), at);
        return all;
      };
      const many = {
        ...few,
        a: repeated(few.a),
        ...(few.aScale ? { aScale: repeated(few.aScale) } : {}),
        ...(few.residual ? { residual: repeated(few.residual) } : {}),
      };
      const session = await opSession(specOf(one, 'float32', few));
      const expected = floatsOf((await session.run(feedsOf(one, 'float32', few, rowTotal))).y!);
      const values = floatsOf((await session.run(feedsOf(one, 'float32', many, rows))).y!);
      assert.ok(values.every((value, i) => Object.is(value, expected[i % expected.length])));
      await session.release();
    }
  });

  it('refuses half of a low-rank term, and one of another shape', async () => {
    const lorc = lorcCases[0]!;
    const fed = { ...inputs, lorc: lorcOf(lorc, random) };
    const spec = specOf(lorc, 'float32', fed);
    const without = { ...spec, inputs: spec.inputs.map((input) => (input?.name === 'lorc_up' ? undefined : input)) };
    const run = async (one: OpSpec): Promise<unknown> => {
      const session = await opSession(one);
      return session.run(feedsOf(lorc, 'float32', fed, 1)).finally(() => session.release());
    };
    await assert.rejects(run(without), /some of the inputs lorc_down, .* are missing, expected none of them or all/);
    const short = { name: 'lorc_down', dtype: 'int8', dims: [7, lorc.K], constant: fed.lorc!.down.subarray(lorc.K) };
    const wrong = { ...spec, inputs: spec.inputs.map((input) => (input?.name === 'lorc_down' ? short : input)) };
    await assert.rejects(
      run(wrong as OpSpec),
      /lorc_down and lorc_down_scale have shapes \[7,384\] and \[8\], expected \[R,384\]/,
    );
  });

  it('takes scale_ratios powers_of_two for what its scales are, and refuses others', async () => {
    const one = gemm([96, 4, 0], ['e4m3', 0], ['e2m1', 32]);
    const rows = [1.5, 1.5 / 2 ** 13, 0.75, 2 ** -8, 2 ** -7, 2 ** -9, 1, 1, 1, 2 ** -24, 2 ** -20, 2 ** -22];
    const fed = (scales: readonly number[]): QuantGemmInputs => ({
      ...{ ...codesOf(one, 'float32', random), ...randomScales(one, random), bias: new Float32Array(0) },
      bScale: toFloat16Array(Float32Array.from(scales)),
    });
    const run = async (inputs: QuantGemmInputs, ratios: string): Promise<Float32Array> => {
      const spec = specOf(one, 'float32', inputs);
      const session = await opSession({ ...spec, attributes: { ...spec.attributes, scale_ratios: ratios } });
      const { y } = await session.run(feedsOf(one, 'float32', inputs, 3));
      await session.release();
      return floatsOf(y!);
    };
    const inputs = fed(rows);
    assert.deepEqual(await run(inputs, 'powers_of_two'), await run(inputs, 'any'));
    for (const [at, scale] of [
      [7, 1.25],
      [1, 1.5 / 2 ** 14],
      [4, 0],
    ] as const) {
      await assert.rejects(run(fed(rows.with(at, scale)), 'powers_of_two'), /b_scale has .* in row \d group \d beside/);
    }
    await assert.rejects(run(inputs, 'm1'), /scale_ratios is "m1", expected "any" or "powers_of_two"/);
  });

  it('refuses weights of another shape, with both shapes', async () => {
    const spec = specOf(c, 'float32', inputs);
    await assert.rejects(
      opSession({ ...spec, attributes: { ...spec.attributes, N: 99 } }),
      /QuantGemm the QuantGemm: input b has shape \[100,128\], expected \[99,128\]/,
    );
  });
});
