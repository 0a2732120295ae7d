/**
 * Group scales whose ratios are powers of two (ZeroQuant-FP, arXiv 2307.09782), so that 4-bit floats become 8-bit ones by adding to
 * exponents. M1 makes each scale a power of two, M2 each ratio of a row's scales to its largest one.
 */
import { toFloat16Bits } from '../../ops/common/float16.js';
import type { ScaleRule } from '../recipes/recipe.js';

/** Ratios beyond 2^14 leave the exponents that e4m3 has for e2m1 values. */
const largestRatio = 14;
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
