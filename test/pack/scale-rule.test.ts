/** Group scales whose ratios are powers of two, in integer weights with clipping and row pairs, as Atom has them. */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { fromFloat16Bits, toFloat16Bits } from '../../ops/common/float16.js';
import { quantizeWithScale } from '../../ops/formats/quantize-segment.js';
import { tensorOf } from '../../graph-rewrite/ir/index.js';
import { floatRows } from '../../graph-rewrite/pack/codes.js';
import { packLinear, type PackSpec } from '../../graph-rewrite/pack/linear.js';
import { allowedScales, rowFactors } from '../../graph-rewrite/pack/scale-rule.js';
import { loadNative } from '../../native/js/load.js';
import { Random } from '../helpers/random.js';

const [N, K, group] = [32, 512, 64];
const groups = K / group;
const atom: PackSpec = { format: 's4', groupSize: group, clip: 0.85, channelGroup: 2, outlierChannels: 0 };

/** Groups of differing size, as sorted channels have them. */
function weights(): Float32Array {
  const random = new Random('scale rule');
  const sizes = Array.from({ length: N * groups }, () => 0.02 * 2 ** (0.5 * random.normal()));
  return Float32Array.from({ length: N * K }, (_, i) => random.normal() * sizes[Math.floor(i / group)]!);
}

const floats = weights();
const sources = [{ weight: tensorOf(floats, [N, K]), layout: 'NK' as const }];

function scalesOf(spec: Partial<PackSpec>): number[] {
  const { bScale } = packLinear('layer', sources, { ...atom, ...spec });
  return Array.from(new Uint16Array(bScale.bytes().slice().buffer), fromFloat16Bits);
}

/** Squared error of group g of the pair of rows that starts with row n. */
function groupError(n: number, g: number, scale: number): number {
  const codes = new Int8Array(group);
  return [n, n + 1].reduce((sum, row) => {
    const values = floats.subarray(row * K + g * group, row * K + (g + 1) * group);
    quantizeWithScale(values, 's4', scale, codes);
    return values.reduce((error, value, i) => error + (value - codes[i]! * scale) ** 2, sum);
  }, 0);
}

const rowError = (n: number, row: readonly number[]): number =>
  row.reduce((sum, scale, g) => sum + groupError(n, g, scale), 0);

const loss = (scales: readonly number[]): number =>
  Array.from({ length: N / 2 }, (_, i) => rowError(2 * i, scales.slice(2 * i * groups, (2 * i + 1) * groups))).reduce(
    (sum, each) => sum + each,
    0,
  );

function assertPowersOfTwo(scales: readonly number[]): void {
  for (let n = 0; n < N; n++) {
    const row = scales.slice(n * groups, (n + 1) * groups);
    const largest = Math.max(...row);
    ok(
      row.every((scale) => Number.isInteger(Math.log2(largest / scale))),
      row.join(' '),
    );
    if (n % 2 === 1) deepEqual(row, scales.slice((n - 1) * groups, n * groups), 'a pair shares its scales');
  }
}

describe('scales in powers of two of clipped integer weights', () => {
  it('M2 takes, pair by pair of rows, the largest scale and the ratios that lose least together', () => {
    const free = scalesOf({});
    const constrained = scalesOf({ scaleConstraint: 'm2' });
    assertPowersOfTwo(constrained);
    for (let n = 0; n < N; n += 2) {
      const own = free.slice(n * groups, (n + 1) * groups);
      const candidates = rowFactors.map((factor) => {
        const largest = fromFloat16Bits(toFloat16Bits(Math.max(...own) * factor));
        return own.map((scale, g) => {
          const allowed = allowedScales({ scaleConstraint: 'm2' }, scale, largest).map(fromFloat16Bits);
          return allowed.reduce((best, each) => (groupError(n, g, each) < groupError(n, g, best) ? each : best));
        });
      });
      const errors = candidates.map((row) => rowError(n, row));
      deepEqual(constrained.slice(n * groups, (n + 1) * groups), candidates[errors.indexOf(Math.min(...errors))]);
    }
  });

  it('loses less with the ratios and the largest scale chosen than with ratios rounded down', () => {
    const [free, best, floor] = [
      loss(scalesOf({})),
      loss(scalesOf({ scaleConstraint: 'm2' })),
      loss(scalesOf({ scaleConstraint: 'm2', scaleRound: 'floor' })),
    ];
    ok(free < best && best < 0.85 * floor, `${free} ${best} ${floor}`);
  });

  it('weighs errors by the energy of the channels where it is known', () => {
    const energy = Float32Array.from({ length: K }, (_, k) => (k < group ? 1e6 : 1));
    const first = (spec: Partial<PackSpec>) => scalesOf(spec).filter((_, i) => i % (2 * groups) === 0);
    const errorOf = (scales: readonly number[]) =>
      scales.reduce((sum, scale, i) => sum + groupError(2 * i, 0, scale), 0);
    const [plain, weighted] = [{}, { clipSearch: 'hessian' as const, energy }].map((more) =>
      errorOf(first({ scaleConstraint: 'm2', ...more })),
    );
    ok(weighted! < plain!, `${weighted} ${plain}`);
  });

  it('GPTQ keeps the rule, from the same largest scales', async () => {
    const hessian = new Float32Array(K * K);
    for (let i = 0; i < K; i++) hessian[i * (K + 1)] = 1; // nothing to move: rounding to nearest
    const { scales } = await loadNative().addon.gptq(floatRows('layer', sources, atom), hessian, {
      ...{ rows: N, cols: K, outlierChannels: 0, groupSize: group, channelGroup: 2, clip: 0.85, percdamp: 0 },
      ...{ grid: 's4', rangeMax: 7, threads: 1, bodyDescending: true, scaleConstraint: 'm2' },
    });
    const rounded = Array.from(scales, fromFloat16Bits);
    assertPowersOfTwo(rounded);
    const nearest = scalesOf({ scaleConstraint: 'm2' });
    equal(rounded.filter((scale, i) => scale !== nearest[i]).length, 0);
  });
});
