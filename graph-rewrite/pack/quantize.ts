/**
 * Round-to-nearest quantization of weight rows, as `ops/formats/README.md` defines it, in loops that a 7B model needs:
 * no allocation and no calls per element. Tests hold it against the plain functions of `ops/formats`.
 */
import { codeFormats, type WeightFormat } from '../../ops/formats/formats.js';
import { weightScale } from '../../ops/formats/quantize-segment.js';

/** Adding and subtracting it rounds a double below 2^51 to an integer, half to even. */
const magic = 1.5 * 2 ** 52;
/** Segments whose absolute maximum is below it are zero. */
const smallestAmax = 2 ** -100;
/** Stored bits of scale 1. */
const oneBits = 0x3c00;
const infinityBits = 0x7c00;

/** Why a segment cannot be quantized. */
export type Refusal = 'non-finite' | 'too-large';

/** Scale of a segment: float16 bits to store, and 1 / scale, or 0 where all codes are 0. */
export interface SegmentScale {
  bits: number;
  inverse: number;
}

/** Absolute maximum of values[start … end), NaN if one of them is not finite. */
function amaxOf(values: Float32Array, start: number, end: number): number {
  let amax = 0;
  let finite = 0;
  for (let i = start; i < end; i++) {
    const value = values[i]!;
    const magnitude = Math.abs(value);
    if (magnitude > amax) amax = magnitude;
    finite += value - value;
  }
  return finite === 0 ? amax : NaN;
}

/**
 * The scale that `rows` rows share in one segment.
 * @param values the rows one after the other, `stride` apart
 * @param into receives the result
 */
export function segmentScale(
  values: Float32Array,
  { rows, stride, start, length }: { rows: number; stride: number; start: number; length: number },
  format: WeightFormat,
  clip: number,
  into: SegmentScale,
): Refusal | undefined {
  let amax = 0;
  for (let row = 0; row < rows; row++) {
    const each = amaxOf(values, row * stride + start, row * stride + start + length);
    if (Number.isNaN(each)) return 'non-finite';
    if (each > amax) amax = each;
  }
  if (amax < smallestAmax) {
    into.bits = oneBits;
    into.inverse = 0;
    return undefined;
  }
  const { bits, scale } = weightScale(amax, format, clip);
  if (bits === infinityBits) return 'too-large';
  into.bits = bits;
  into.inverse = Math.fround(1 / scale);
  return undefined;
}

/** Writes `length` s4 codes of `values` from `start`, two a byte, low nibble first, to `out` from `offset`. */
export function writeS4(
  values: Float32Array,
  start: number,
  length: number,
  inverse: number,
  out: Uint8Array,
  offset: number,
): void {
  const { min, max } = codeFormats.s4;
  const even = length - (length & 1);
  for (let i = 0; i < even; i += 2) {
    const low = Math.fround(values[start + i]! * inverse) + magic - magic;
    const high = Math.fround(values[start + i + 1]! * inverse) + magic - magic;
    const lowCode = low < min ? min : low > max ? max : low;
    const highCode = high < min ? min : high > max ? max : high;
    out[offset + (i >> 1)] = (lowCode & 15) | (highCode << 4);
  }
  if (even < length) {
    const last = Math.fround(values[start + even]! * inverse) + magic - magic;
    out[offset + (even >> 1)] = Math.min(max, Math.max(min, last)) & 15;
  }
}

/** Writes `length` s8 codes of `values` from `start`, as two's complement bytes, to `out` from `offset`. */
export function writeS8(
  values: Float32Array,
  start: number,
  length: number,
  inverse: number,
  out: Uint8Array,
  offset: number,
): void {
  const { min, max } = codeFormats.s8;
  for (let i = 0; i < length; i++) {
    const rounded = Math.fround(values[start + i]! * inverse) + magic - magic;
    out[offset + i] = rounded < min ? min : rounded > max ? max : rounded;
  }
}
