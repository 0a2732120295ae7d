import assert from 'node:assert/strict';
import { fromFloat16Bits } from '../../ops/common/float16.js';
import { minifloats, minifloatValues } from '../../ops/formats/minifloat.js';
import type { GptqSpec } from '../../native/js/addon.js';
import { loadNative } from '../../native/js/load.js';

/** A fixed sequence of numbers in [-1, 1). */
function random(seed: number): () => number {
  let state = seed;
  return () => {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    return state / 2 ** 31 - 1;
  };
}

function makeWeights(rows: number, cols: number): Float32Array {
  const next = random(7);
  return Float32Array.from({ length: rows * cols }, next);
}

/** Σ x·xᵀ of neighbours that move together, with some channels larger than others. */
function makeHessian(cols: number): Float32Array {
  const hessian = new Float32Array(cols * cols);
  const gain = (i: number) => 1 + (i % 5);
  for (let i = 0; i < cols; i++) {
    for (let j = 0; j < cols; j++) hessian[i * cols + j] = gain(i) * gain(j) * 0.9 ** Math.abs(i - j);
  }
  return hessian;
}

const base = {
  outlierChannels: 0,
  groupSize: 0,
  channelGroup: 1,
  grid: 's4',
  rangeMax: 7,
  clip: 1,
  percdamp: 0.01,
  bodyDescending: false,
  threads: 2,
} as const;

async function run(weights: Float32Array, hessian: Float32Array, spec: GptqSpec) {
  return loadNative().addon.gptq(weights.slice(), hessian.slice(), spec);
}

/** tr(ΔW·H·ΔWᵀ). */
function lossOf(delta: Float64Array, hessian: Float32Array, cols: number): number {
  let loss = 0;
  for (let row = 0; row < delta.length; row += cols) {
    for (let i = 0; i < cols; i++) {
      for (let j = 0; j < cols; j++) loss += delta[row + i]! * hessian[i * cols + j]! * delta[row + j]!;
    }
  }
  return loss;
}

/** W − codes · scales for integer grids, body only. */
function residual(weights: Float32Array, codes: Int8Array, scales: Uint16Array, { cols, groupSize }: GptqSpec) {
  const group = groupSize || cols;
  return Float64Array.from(weights, (w, i) => {
    const scale = fromFloat16Bits(scales[Math.floor(i / cols) * (cols / group) + Math.floor((i % cols) / group)]!);
    return w - codes[i]! * scale;
  });
}

/** GPTQ as the paper writes it: one column at a time, the inverse Hessian updated by elimination, in doubles. */
function textbookGptq(weights: Float32Array, hessian: Float32Array, { rows, cols, percdamp, rangeMax }: GptqSpec) {
  let mean = 0;
  for (let i = 0; i < cols; i++) mean += hessian[i * cols + i]! / cols;
  const damped = Float64Array.from(hessian, (h, i) => h + (i % (cols + 1) === 0 ? percdamp * mean : 0));
  const inverse = invert(damped, cols);
  const w = Float64Array.from(weights);
  const scales = Array.from({ length: rows }, (_, r) => {
    const most = Math.max(...weights.subarray(r * cols, (r + 1) * cols).map(Math.abs));
    return Number(new Float32Array([most / rangeMax])[0]);
  });
  const codes = new Int8Array(rows * cols);
  for (let i = 0; i < cols; i++) {
    const pivot = inverse[i * cols + i]!;
    for (let r = 0; r < rows; r++) {
      const value = w[r * cols + i]!;
      const code = Math.max(-8, Math.min(7, Math.round(value / scales[r]!)));
      codes[r * cols + i] = code;
      const error = (value - code * scales[r]!) / pivot;
      for (let j = i + 1; j < cols; j++) w[r * cols + j]! -= error * inverse[i * cols + j]!;
    }
    for (let a = i + 1; a < cols; a++) {
      for (let b = i + 1; b < cols; b++) {
        inverse[a * cols + b]! -= (inverse[a * cols + i]! * inverse[i * cols + b]!) / pivot;
      }
    }
  }
  return codes;
}

function invert(matrix: Float64Array, n: number): Float64Array {
  const a = matrix.slice();
  const inverse = Float64Array.from({ length: n * n }, (_, i) => (i % (n + 1) === 0 ? 1 : 0));
  for (let p = 0; p < n; p++) {
    const pivot = a[p * n + p]!;
    for (let j = 0; j < n; j++) {
      a[p * n + j]! /= pivot;
      inverse[p * n + j]! /= pivot;
    }
    for (let i = 0; i < n; i++) {
      const factor = i === p ? 0 : a[i * n + p]!;
      for (let j = 0; j < n; j++) {
        a[i * n + j]! -= factor * a[p * n + j]!;
        inverse[i * n + j]! -= factor * inverse[p * n + j]!;
      }
    }
  }
  return inverse;
}

describe('gptq', () => {
  it('rounds as the paper does', async () => {
    const spec: GptqSpec = { ...base, rows: 50, cols: 40 };
    const weights = makeWeights(spec.rows, spec.cols);
    const hessian = makeHessian(spec.cols);
    const { codes } = await run(weights, hessian, spec);
    const expected = textbookGptq(weights, hessian, spec);
    // The native code works in float32 and rounds scales to float16: a value near a tie may fall to the other side and move its row.
    const rows = Array.from({ length: spec.rows }, (_, r) => r);
    const same = rows.filter((r) => codes.subarray(r * 40, r * 40 + 40).every((c, i) => c === expected[r * 40 + i]));
    assert.ok(same.length >= 0.8 * spec.rows, `${same.length} of ${spec.rows} rows are the same`);
  });

  it('is round to nearest when the inputs are not correlated', async () => {
    const spec: GptqSpec = { ...base, rows: 7, cols: 64, groupSize: 16, percdamp: 0 };
    const weights = makeWeights(spec.rows, spec.cols);
    const hessian = Float32Array.from({ length: 64 * 64 }, (_, i) => (i % 65 === 0 ? 1 + (i % 3) : 0));
    const { codes, scales } = await run(weights, hessian, spec);
    weights.forEach((w, i) => {
      const scale = fromFloat16Bits(scales[Math.floor(i / 16)]!);
      const inverse = Math.fround(1 / scale);
      const exact = Math.fround(w * inverse);
      assert.ok(Math.abs(exact - codes[i]!) <= 0.5, `${i}: ${exact} gave ${codes[i]}`);
    });
  });

  for (const [name, change] of Object.entries({
    'per channel': {},
    'groups of 32': { groupSize: 32 },
    'groups of 48, not a power of two': { groupSize: 48 },
    'groups longer than a lazy block': { groupSize: 144 },
    'most salient first': { groupSize: 32, bodyDescending: true },
    'row pairs': { groupSize: 32, channelGroup: 2 },
  } satisfies Record<string, Partial<GptqSpec>>)) {
    it(`loses less than round to nearest: ${name}`, async () => {
      const spec: GptqSpec = { ...base, rows: 61, cols: 288, ...change };
      const weights = makeWeights(spec.rows, spec.cols);
      const hessian = makeHessian(spec.cols);
      const diagonal = hessian.map((h, i) => (i % (spec.cols + 1) === 0 ? h : 0));
      const gptq = await run(weights, hessian, spec);
      const nearest = await run(weights, diagonal, spec);
      const loss = lossOf(residual(weights, gptq.codes, gptq.scales, spec), hessian, spec.cols);
      const nearestLoss = lossOf(residual(weights, nearest.codes, nearest.scales, spec), hessian, spec.cols);
      assert.ok(loss < 0.6 * nearestLoss, `gptq ${loss}, nearest ${nearestLoss}`);
      assert.ok(Math.abs(gptq.loss - loss) < 0.2 * loss, `its own estimate ${gptq.loss}, measured ${loss}`);
    });
  }

  it('does not depend on the number of threads', async () => {
    const spec: GptqSpec = { ...base, rows: 200, cols: 320, groupSize: 64, outlierChannels: 64 };
    const weights = makeWeights(spec.rows, spec.cols);
    const one = await run(weights, makeHessian(spec.cols), { ...spec, threads: 1 });
    const many = await run(weights, makeHessian(spec.cols), { ...spec, threads: 5 });
    assert.deepEqual(one.codes, many.codes);
    assert.deepEqual(one.scales, many.scales);
    assert.deepEqual(one.outlierScales, many.outlierScales);
  });

  it('takes dead channels and singular Hessians', async () => {
    const spec: GptqSpec = { ...base, rows: 4, cols: 32, percdamp: 0 };
    const weights = makeWeights(spec.rows, spec.cols);
    const hessian = new Float32Array(32 * 32).fill(1); // rank one
    for (let i = 0; i < 32; i++) hessian[5 * 32 + i] = hessian[i * 32 + 5] = 0;
    const { codes, damping } = await run(weights, hessian, spec);
    assert.ok(damping > 0);
    for (let r = 0; r < 4; r++) assert.equal(codes[r * 32 + 5], 0);
  });

  for (const grid of ['e2m1', 'e3m0', 'bnb_fp4', 'e4m3'] as const) {
    it(`rounds to ${grid}: every value, every halfway, and in between`, async () => {
      const all = [...minifloatValues(grid)];
      const values = all.slice(0, all.indexOf(minifloats[grid].max) + 1);
      const halves = values.slice(1).map((value, i) => (value + values[i]!) / 2);
      const next = random(3);
      const between = Array.from({ length: 500 }, () => Math.abs(next()) * values.at(-1)!);
      const positive = [...values, ...halves, ...between].map(Math.fround);
      const weights = Float32Array.from([...positive, ...positive.map((each) => -each)]);
      const cols = weights.length;
      const hessian = Float32Array.from({ length: cols * cols }, (_, i) => (i % (cols + 1) === 0 ? 1 : 0));
      // The largest value of the grid is among the weights, so the scale is 1.
      const result = await run(weights, hessian, {
        ...base,
        rows: 1,
        cols,
        grid,
        rangeMax: values.at(-1)!,
        percdamp: 0,
      });
      assert.equal(fromFloat16Bits(result.scales[0]!), 1);
      positive.forEach((x, i) => {
        const distances = values.map((value) => Math.abs(value - x));
        const least = Math.min(...distances);
        const nearest = values.flatMap((_, code) => (distances[code] === least ? [code] : []));
        const expected = nearest.length === 1 || nearest[0]! % 2 === 0 ? nearest[0]! : nearest[1]!;
        const sign = grid === 'e4m3' ? 0x80 : 8;
        assert.equal(result.codes[i]! & 0xff, expected, `${x}`);
        const negative = result.codes[positive.length + i]! & 0xff;
        assert.ok(negative === (expected | sign) || (expected === 0 && negative === 0), `${-x} gave ${negative}`);
      });
    });
  }

  it('refuses a Hessian that is not finite', async () => {
    const hessian = makeHessian(16).fill(NaN);
    await assert.rejects(run(makeWeights(2, 16), hessian, { ...base, rows: 2, cols: 16 }), /Hessian diagonal 0 is/);
  });
});
