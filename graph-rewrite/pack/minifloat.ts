/** Weight rows in minifloat codes, with free or constrained scales. */
import { fromFloat16Bits } from '../../ops/common/float16.js';
import { minifloats, minifloatValues, toMinifloat, type MinifloatName } from '../../ops/formats/minifloat.js';
import type { ScaleRule } from '../recipes/recipe.js';
import { allowedScales } from './scale-rule.js';

/** Adjacent groups of a few rows that share scales: rows one after the other, `stride` apart, groups from their start. */
export interface Groups {
  readonly rows: number;
  readonly stride: number;
  readonly group: number;
  readonly groups: number;
}

/**
 * Puts the scales of some rows under a rule.
 * @param bits the free scales of the groups, float16; replaced by what the rule allows
 * @param inverses their inverses, 0 for a group of zeros, which takes the row's largest scale; replaced too
 */
export function constrainScales(
  values: Float32Array,
  at: Groups,
  format: MinifloatName,
  rule: ScaleRule,
  bits: Uint16Array,
  inverses: Float32Array,
): void {
  if ((rule.scaleConstraint ?? 'none') === 'none') return;
  const largest = bits.reduce((most, each, g) => (inverses[g] === 0 ? most : Math.max(most, fromFloat16Bits(each))), 0);
  if (largest === 0) return;
  for (let g = 0; g < at.groups; g++) {
    const zeros = inverses[g] === 0;
    const allowed = allowedScales(rule, zeros ? largest : fromFloat16Bits(bits[g]!), largest);
    const errors = allowed.map((each) => (allowed.length === 1 ? 0 : squaredError(values, at, g, format, each)));
    bits[g] = allowed[errors.indexOf(Math.min(...errors))]!;
    if (!zeros) inverses[g] = 1 / fromFloat16Bits(bits[g]!);
  }
}

function squaredError(values: Float32Array, at: Groups, g: number, format: MinifloatName, bits: number): number {
  const scale = fromFloat16Bits(bits);
  const inverse = Math.fround(1 / scale);
  const grid = minifloatValues(format);
  let error = 0;
  for (let row = 0; row < at.rows; row++) {
    const start = row * at.stride + g * at.group;
    for (let i = start; i < start + at.group; i++) {
      const off = values[i]! - grid[toMinifloat(Math.fround(values[i]! * inverse), format)]! * scale;
      error += off * off;
    }
  }
  return error;
}

/** Writes `length` codes of `values` from `start`: two a byte, low nibble first, or one. */
export function writeMinifloat(
  format: MinifloatName,
  values: Float32Array,
  start: number,
  length: number,
  inverse: number,
  out: Uint8Array,
  offset: number,
): void {
  const nibbles = minifloats[format].bits === 4;
  for (let i = 0; i < length; i++) {
    const code = inverse === 0 ? 0 : toMinifloat(Math.fround(values[start + i]! * inverse), format);
    if (nibbles) out[offset + (i >> 1)]! |= i & 1 ? code << 4 : code;
    else out[offset + i] = code;
  }
}
