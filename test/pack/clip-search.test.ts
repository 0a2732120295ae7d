import assert from 'node:assert/strict';
import { inlineTensor } from '../../graph-rewrite/ir/index.js';
import { clipRatios } from '../../graph-rewrite/pack/clip-search.js';
import { packLinear, type PackSpec } from '../../graph-rewrite/pack/linear.js';
import { loadNative } from '../../native/js/load.js';
import { fromFloat16Bits } from '../../ops/common/float16.js';
import { largestOf, weightBits, type WeightFormat } from '../../ops/formats/formats.js';
import { isMinifloat, minifloatValues, unpackNibbles } from '../../ops/formats/minifloat.js';
import { quantizeWithScale, weightScale } from '../../ops/formats/quantize-segment.js';
import { unpackS4 } from '../../ops/formats/s4.js';
import { Random } from '../helpers/random.js';

const [N, K, G] = [6, 64, 32];
const groups = K / G;

/** Weights with a long tail, where clipping pays. */
function makeWeights(): Float32Array {
  const random = new Random(5);
  return Float32Array.from(random.normals('float32', N * K), (value) => value * Math.abs(value) ** 1.5);
}

const energies = (): Float32Array => Float32Array.from({ length: K }, (_, k) => (k % 7 === 0 ? 100 : 1));

function pack(weights: Float32Array, spec: Partial<PackSpec>) {
  const bytes = new Uint8Array(weights.buffer.slice(0));
  const weight = inlineTensor('float32', [N, K], bytes);
  const base = { format: 's4', groupSize: G, clip: 1, channelGroup: 1, outlierChannels: 0 } as const;
  const packed = packLinear('layer', [{ weight, layout: 'NK' }], { ...base, ...spec });
  return { b: packed.b.bytes(), scales: new Uint16Array(packed.bScale.bytes().slice().buffer) };
}

/** Squared error of one group under a scale, from the plain functions of the formats. */
function groupError(values: Float32Array, format: WeightFormat, scale: number, energy?: Float32Array): number {
  const codes = new Int8Array(values.length);
  quantizeWithScale(values, format, scale, codes);
  const grid = isMinifloat(format) ? minifloatValues(format) : undefined;
  return values.reduce((sum, value, i) => {
    const rounded = grid ? grid[codes[i]! & (grid.length - 1)]! : codes[i]!;
    return sum + (energy?.[i] ?? 1) * (value - rounded * scale) ** 2;
  }, 0);
}

/** The stored scale that trying all ratios gives. */
function best(values: Float32Array, format: WeightFormat, energy?: Float32Array): number {
  const amax = values.reduce((most, value) => Math.max(most, Math.abs(value)), 0);
  let [least, bits] = [Infinity, 0];
  for (const ratio of clipRatios) {
    const stored = weightScale(amax, format, ratio);
    const error = groupError(values, format, stored.scale, energy);
    if (error < least) [least, bits] = [error, stored.bits];
  }
  return bits;
}

describe('clip search', () => {
  for (const format of ['s4', 's8', 'e2m1', 'e4m3'] as const) {
    for (const clipSearch of ['mse', 'hessian'] as const) {
      it(`${format}, ${clipSearch}: every group has the scale of the smallest error, and codes of that scale`, () => {
        const weights = makeWeights();
        const energy = clipSearch === 'hessian' ? energies() : undefined;
        const { b, scales } = pack(weights, { format, clipSearch, ...(energy ? { energy } : {}) });
        const codes =
          weightBits(format) === 8
            ? new Int8Array(b.slice().buffer)
            : format === 's4'
              ? unpackS4(b, N, K)
              : Int8Array.from(unpackNibbles(b, N, K));
        for (let i = 0; i < N * groups; i++) {
          const values = weights.subarray(i * G, (i + 1) * G);
          const within = energy?.subarray((i % groups) * G, (i % groups) * G + G);
          assert.equal(scales[i], best(values, format, within), `group ${i}`);
          const expected = new Int8Array(G);
          quantizeWithScale(values, format, fromFloat16Bits(scales[i]!), expected);
          assert.deepEqual(codes.slice(i * G, (i + 1) * G), expected);
        }
      });
    }
  }

  it('searches one scale for rows that share it', () => {
    const weights = makeWeights();
    const { scales } = pack(weights, { clipSearch: 'mse', channelGroup: 2 });
    for (let n = 0; n < N; n += 2) {
      assert.deepEqual(scales.slice(n * groups, (n + 1) * groups), scales.slice((n + 1) * groups, (n + 2) * groups));
    }
  });

  it('of energy, only what is large counts', () => {
    const weights = makeWeights();
    const plain = pack(weights, { clipSearch: 'mse' }).scales;
    const weighted = pack(weights, { clipSearch: 'hessian', energy: energies() }).scales;
    assert.notDeepEqual(weighted, plain);
  });

  it('GPTQ with a search finds the same scales where nothing is compensated', async () => {
    const weights = makeWeights();
    const hessian = new Float32Array(K * K);
    energies().forEach((energy, k) => (hessian[k * (K + 1)] = energy));
    for (const clipSearch of ['mse', 'hessian'] as const) {
      const { scales } = await loadNative().addon.gptq(weights.slice(), hessian.slice(), {
        ...{ rows: N, cols: K, outlierChannels: 0, groupSize: G, channelGroup: 1, grid: 's4' },
        ...{ rangeMax: largestOf('s4'), clip: 1, clipSearch, percdamp: 0, bodyDescending: false, threads: 1 },
      });
      const energy = clipSearch === 'hessian' ? energies() : undefined;
      assert.deepEqual(scales, pack(weights, { clipSearch, ...(energy ? { energy } : {}) }).scales);
    }
  });
});
