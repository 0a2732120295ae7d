/** Weight rows in minifloat codes. */
import { minifloats, toMinifloat, type MinifloatName } from '../../ops/formats/minifloat.js';

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
