/**
 * Group scales whose ratios are powers of two (ZeroQuant-FP, arXiv 2307.09782), so that 4-bit codes become 8-bit floats, group scale and all,
 * by adding to exponents. M1 makes each scale a power of two, M2 each ratio of a row's scales to its largest one.
 */
import { fromFloat16Bits, toFloat16Bits } from '../../ops/common/float16.js';
import type { ScaleRule } from '../recipes/recipe.js';
import { squaredError } from './clip-search.js';
import type { PackSpec } from './linear.js';

/** Ratios beyond 2^13 leave the exponents that e4m3 has for s4 and e2m1 values (kLargestShift of the CUDA kernels). */
const largestRatio = 13;
/** Exponent of the smallest normal float16: from there on halves are exact. */
const smallestNormal = -14;

const word = new Uint32Array(1);
const single = new Float32Array(word.buffer);

/** floor(log2(x)), exactly, and whether x is a power of two; x is a normal binary32 number. */
function exponentOf(x: number): { floor: number; exact: boolean } {
  single[0] = x;
  return { floor: ((word[0]! >>> 23) & 255) - 127, exact: (word[0]! & 0x7fffff) === 0 };
}

/**
 * The float16 bits of the scales that a rule allows for a group: one, or two to choose from.
 * @param scale the group's own scale, positive
 * @param largest the largest scale of its row, as stored
 */
export function allowedScales(
  { scaleConstraint, scaleRound = 'best' }: ScaleRule,
  scale: number,
  largest: number,
): number[] {
  const x = scaleConstraint === 'm1' ? scale : Math.fround(largest / scale);
  const { floor, exact } = exponentOf(x);
  const ceil = exact ? floor : floor + 1;
  const exponents = scaleRound === 'best' ? [floor, ceil] : [scaleRound === 'floor' ? floor : ceil];
  return exponents.map((exponent) => toFloat16Bits(scaleFor(scaleConstraint, exponent, largest)));
}

function scaleFor(constraint: ScaleRule['scaleConstraint'], exponent: number, largest: number): number {
  const top = exponentOf(largest).floor;
  // The row's largest may become 2^top or 2^(top + 1).
  if (constraint === 'm1') return 2 ** Math.min(15, top + 1, Math.max(-24, top + 1 - largestRatio, exponent));
  return largest * 2 ** -Math.max(0, Math.min(exponent, largestRatio, top - smallestNormal));
}

/** Adjacent groups of a few rows that share scales: rows one after the other, `stride` apart, groups from their start. */
export interface Groups {
  readonly rows: number;
  readonly stride: number;
  readonly group: number;
  readonly groups: number;
}

/**
 * The largest scales that M2 with `best` tries for a row, over its largest free one: the groups of a row lie within an octave or two, so that
 * where its powers of two fall decides how far each group is from one.
 */
export const rowFactors: readonly number[] = [1, 2 ** 0.25, 2 ** 0.5, 2 ** 0.75].map(Math.fround);

/**
 * Puts the scales of some rows under a rule. Errors that are compared are squared, weighted by the energy of the channels where there is one.
 * @param bits the free scales of the groups, float16; replaced by what the rule allows
 * @param inverses their inverses, 0 for a group of zeros, which takes the row's largest scale; replaced too
 */
export function constrainScales(
  values: Float32Array,
  at: Groups,
  spec: Pick<PackSpec, 'format' | 'energy' | 'scaleConstraint' | 'scaleRound'>,
  bits: Uint16Array,
  inverses: Float32Array,
): void {
  const { scaleConstraint = 'none', scaleRound = 'best' } = spec;
  if (scaleConstraint === 'none') return;
  const free = Array.from(bits, (each, g) => (inverses[g] === 0 ? 0 : fromFloat16Bits(each)));
  const own = Math.max(...free);
  if (own === 0) return;
  let least = Infinity;
  for (const factor of scaleConstraint === 'm2' && scaleRound === 'best' ? rowFactors : [1]) {
    const largest = fromFloat16Bits(toFloat16Bits(Math.fround(own * factor)));
    if (largest === Infinity) break;
    const chosen = free.map((scale, g) => nearestAllowed(values, at, g, spec, scale, largest));
    const error = chosen.reduce((sum, each) => sum + each.error, 0);
    if (error >= least) continue;
    least = error;
    chosen.forEach((each, g) => (bits[g] = each.bits));
  }
  for (let g = 0; g < at.groups; g++) if (free[g] !== 0) inverses[g] = 1 / fromFloat16Bits(bits[g]!);
}

/** Of the scales that the rule allows for a group the one that loses least; `scale` is its own, 0 for a group of zeros. */
function nearestAllowed(
  values: Float32Array,
  { rows, stride, group }: Groups,
  g: number,
  spec: Pick<PackSpec, 'format' | 'energy' | 'scaleConstraint' | 'scaleRound'>,
  scale: number,
  largest: number,
): { bits: number; error: number } {
  const segment = { rows, stride, start: g * group, length: group };
  const energy = spec.energy?.subarray(g * group);
  const tried = allowedScales(spec, scale || largest, largest).map((bits) => {
    const inverse = scale === 0 ? 0 : Math.fround(1 / fromFloat16Bits(bits));
    return { bits, error: squaredError(values, segment, spec.format, energy, { bits, inverse }) };
  });
  return tried.reduce((best, each) => (each.error < best.error ? each : best));
}
