/** Minifloat weights: codes and scales against the formats' reference, and the power-of-two rules. */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { fromFloat16Bits } from '../../ops/common/float16.js';
import { minifloatValues, packNibbles, toMinifloat } from '../../ops/formats/minifloat.js';
import { quantizeWithScale, weightScale } from '../../ops/formats/quantize-segment.js';
import { tensorOf } from '../../graph-rewrite/ir/index.js';
import { floatRows, unpackFloats } from '../../graph-rewrite/pack/codes.js';
import { allowedScales } from '../../graph-rewrite/pack/scale-rule.js';
import { packedSizes, packLinear, type PackSpec, type Parts } from '../../graph-rewrite/pack/linear.js';
import { loadNative } from '../../native/js/load.js';
import { Random } from '../helpers/random.js';

const [N, K, group] = [24, 256, 64];
const base: PackSpec = { format: 'e2m1', groupSize: group, clip: 1, channelGroup: 1, outlierChannels: 0 };

function weightTensor(random: Random, size = 0.02) {
  const rows = Array.from({ length: N }, () => Array.from({ length: K }, () => random.normal() * size));
  rows[3]!.fill(0, 0, group); // a group of zeros
  for (let k = 0; k < group; k++) rows[5]![k]! *= 2 ** -20; // a ratio beyond what the rules allow
  return tensorOf(Float32Array.from(rows.flat()), [N, K]);
}

function pack(spec: PackSpec, weight = weightTensor(new Random('minifloat'))) {
  const sources = [{ weight, layout: 'NK' as const }];
  const packed = packLinear('layer', sources, spec);
  const none = new Uint8Array(0);
  const parts: Parts = { b: packed.b.bytes(), bScale: packed.bScale.bytes(), bOutlier: none, bOutlierScale: none };
  const floats = floatRows('layer', sources, spec);
  const decoded = unpackFloats(parts, spec, packedSizes('layer', sources, spec));
  const error = floats.reduce((sum, value, i) => sum + (value - decoded[i]!) ** 2, 0);
  const energy = floats.reduce((sum, value) => sum + value ** 2, 0);
  const scales = Array.from(new Uint16Array(parts.bScale.slice().buffer), fromFloat16Bits);
  return { packed, parts, floats, decoded, scales, loss: error / energy };
}

const isPowerOfTwo = (x: number): boolean => Number.isInteger(Math.log2(x));

function assertRule(scales: readonly number[], rule: 'm1' | 'm2', groups = K / group): void {
  for (let n = 0; n * groups < scales.length; n++) {
    const row = scales.slice(n * groups, (n + 1) * groups);
    const largest = Math.max(...row);
    for (const scale of row) {
      ok(isPowerOfTwo(rule === 'm1' ? scale : largest / scale), `row ${n}: ${row.join(' ')}`);
      ok(largest / scale <= 2 ** 13, `row ${n}: ${row.join(' ')}`);
    }
  }
}

describe('minifloat weights', () => {
  for (const format of ['e2m1', 'e3m0', 'bnb_fp4', 'e4m3'] as const) {
    it(`${format}: codes and scales are the formats'`, () => {
      const { packed, parts, floats, scales } = pack({ ...base, format });
      const codes = new Int8Array(N * K);
      for (let g = 0; g < (N * K) / group; g++) {
        const values = floats.subarray(g * group, (g + 1) * group);
        const amax = Math.max(...values.map(Math.abs));
        const scale = amax === 0 ? 1 : weightScale(amax, format, 1).scale;
        equal(scales[g], scale);
        if (amax > 0) quantizeWithScale(values, format, scale, codes.subarray(g * group, (g + 1) * group));
      }
      const expected = format === 'e4m3' ? new Uint8Array(codes.buffer) : packNibbles(codes, N, K);
      deepEqual(parts.b, expected);
      equal(packed.b.dtype, format === 'e4m3' ? 'int8' : 'uint8');
    });
  }

  for (const scaleConstraint of ['m1', 'm2'] as const) {
    for (const scaleRound of ['ceil', 'floor', 'best'] as const) {
      it(`${scaleConstraint} ${scaleRound}: scales are powers of two or in their ratio`, () => {
        assertRule(pack({ ...base, scaleConstraint, scaleRound }).scales, scaleConstraint);
      });
    }
  }

  it('loses least with free scales, then M2 floor, then M1 ceil; best is no worse than either direction', () => {
    const mean = (rule: Partial<PackSpec>): number => {
      const losses = Array.from({ length: 8 }, (_, i) => {
        const random = new Random(`order ${i}`);
        return pack({ ...base, ...rule }, weightTensor(random, 0.02 * 2 ** random.next())).loss;
      });
      return losses.reduce((sum, each) => sum + each, 0);
    };
    const [free, m2, m1] = [
      mean({}),
      mean({ scaleConstraint: 'm2', scaleRound: 'floor' }),
      mean({ scaleConstraint: 'm1', scaleRound: 'ceil' }),
    ];
    ok(free < m2 && m2 < m1, `${free} ${m2} ${m1}`);
    ok(mean({ scaleConstraint: 'm1' }) <= m1);
    ok(mean({ scaleConstraint: 'm2' }) <= m2);
    ok(m2 < mean({ scaleConstraint: 'm2', scaleRound: 'ceil' }), 'M2 ceil clips');
  });

  for (const scaleConstraint of ['m1', 'm2'] as const) {
    it(`${scaleConstraint}: every decoded weight over the row's largest scale is an e4m3 value`, () => {
      const { decoded, scales } = pack({ ...base, scaleConstraint });
      const groups = K / group;
      decoded.forEach((value, i) => {
        const row = Math.floor(i / K);
        const largest = Math.max(...scales.slice(row * groups, (row + 1) * groups));
        const operand = (value / largest) * 2 ** 6; // the largest group sits at 2^6
        equal(minifloatValues('e4m3')[toMinifloat(operand, 'e4m3')], operand);
      });
    });
  }

  for (const scaleConstraint of ['m1', 'm2'] as const) {
    it(`GPTQ keeps ${scaleConstraint}, with groups in either order`, async () => {
      const random = new Random('gptq');
      const weights = floatRows('layer', [{ weight: weightTensor(random), layout: 'NK' }], base);
      const hessian = new Float32Array(K * K);
      for (let i = 0; i < K; i++) for (let j = 0; j < K; j++) hessian[i * K + j] = 0.9 ** Math.abs(i - j);
      for (const bodyDescending of [false, true]) {
        const { scales } = await loadNative().addon.gptq(weights.slice(), hessian.slice(), {
          ...{ rows: N, cols: K, outlierChannels: 0, groupSize: group, channelGroup: 1, clip: 1, percdamp: 0.01 },
          ...{ grid: 'e2m1', rangeMax: 6, threads: 1, bodyDescending, scaleConstraint },
        });
        assertRule(Array.from(scales, fromFloat16Bits), scaleConstraint);
      }
    });
  }
});

describe('scales whose ratios are powers of two', () => {
  const scales = (...[rule, scale, largest]: Parameters<typeof allowedScales>): number[] =>
    allowedScales(rule, scale, largest).map(fromFloat16Bits);

  it('M1: the powers around a scale, or itself if it is one', () => {
    deepEqual(scales({ scaleConstraint: 'm1' }, 0.3, 1), [0.25, 0.5]);
    deepEqual(scales({ scaleConstraint: 'm1' }, 0.25, 1), [0.25, 0.25]);
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'floor' }, 0.3, 1), [0.25]);
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'ceil' }, 0.3, 1), [0.5]);
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'ceil' }, 65504, 65504), [2 ** 15]);
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'floor' }, 2 ** -24, 2 ** -24), [2 ** -24]);
  });

  it("M1: at most 2^13 apart, whichever way the row's largest scale goes", () => {
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'floor' }, 1e-6, 1.5), [2 ** -12]);
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'ceil' }, 1e-6, 1.5), [2 ** -12]);
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'ceil' }, 1.5, 1.5), [2]);
    deepEqual(scales({ scaleConstraint: 'm1', scaleRound: 'ceil' }, 100, 1.5), [2]); // GPTQ: grown since
  });

  it("M2: the row's largest scale by the powers around their ratio, at most 2^13 and never subnormal", () => {
    deepEqual(scales({ scaleConstraint: 'm2' }, 0.9, 3), [1.5, 0.75]);
    deepEqual(scales({ scaleConstraint: 'm2' }, 0.75, 3), [0.75, 0.75]);
    deepEqual(scales({ scaleConstraint: 'm2', scaleRound: 'ceil' }, 1e-7, 3), [3 * 2 ** -13]);
    deepEqual(scales({ scaleConstraint: 'm2', scaleRound: 'ceil' }, 1e-7, 3 * 2 ** -10), [3 * 2 ** -15]);
  });
});
