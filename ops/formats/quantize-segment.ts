/** Symmetric quantization of one segment, step by step as in `ops/formats/README.md`. */
import { fromFloat16Bits, toFloat16Bits } from '../common/float16.js';
import { codeFormats, largestOf, type ActivationFormat, type WeightFormat } from './formats.js';
import { isMinifloat, toMinifloat } from './minifloat.js';
import { toSignMagnitude } from './sign-magnitude.js';

const f = Math.fround;
const infinityBits = 0x7f800000;
/** Bits of 2^-100; segments below it are taken as zero, so that no scale or inverse leaves the normal range. */
const smallestAmaxBits = 27 << 23;

/** The smallest and the largest legal `clip`. */
export const clipRange = { min: 0.01, max: 1 } as const;

const word = new Uint32Array(1);
const single = new Float32Array(word.buffer);

/** Largest `bits(x) & 0x7fffffff` over the values: the bits of max |x| if all are finite, at least infinity's if not. */
export function amaxBits(values: Float32Array): number {
  let largest = 0;
  for (const value of values) {
    single[0] = value;
    largest = Math.max(largest, word[0]! & 0x7fffffff);
  }
  return largest;
}

/** `x` rounded to an integer, half to even. Exact for |x| < 2^51. */
export function roundHalfEven(x: number): number {
  const magic = 1.5 * 2 ** 52; // in [2^52, 2^53) the doubles are the integers
  return x + magic - magic;
}

/** Writes the codes of `values` for a given scale; values must be finite and the scale positive. */
export function quantizeWithScale(
  values: Float32Array,
  format: ActivationFormat | WeightFormat,
  scale: number,
  codes: Int8Array,
): void {
  const inverse = f(1 / scale);
  if (isMinifloat(format)) {
    values.forEach((value, i) => {
      codes[i] = toMinifloat(f(value * inverse), format);
    });
    return;
  }
  const { min, max } = codeFormats[format];
  values.forEach((value, i) => {
    codes[i] = Math.min(max, Math.max(min, roundHalfEven(f(value * inverse))));
  });
  if (format === 's4_e4m3') toSignMagnitude(codes.subarray(0, values.length));
}

/**
 * Quantizes one segment of an activation row.
 * @param values the segment, binary32
 * @param clip fraction of the largest magnitude that maps to the last code; 1 for outliers
 * @param codes receives one code a value
 * @returns the scale (binary32): 1 for zeros, NaN if a value is infinite or NaN
 */
export function quantizeSegment(
  values: Float32Array,
  format: ActivationFormat,
  clip: number,
  codes: Int8Array,
): number {
  const bits = amaxBits(values);
  if (bits >= infinityBits || bits < smallestAmaxBits) {
    codes.fill(0);
    return bits >= infinityBits ? NaN : 1;
  }
  word[0] = bits;
  const scale = f(single[0]! * f(f(clip) / largestOf(format)));
  quantizeWithScale(values, format, scale, codes);
  return scale;
}

/**
 * The scale of a weight segment: as for activations, then rounded to float16 (0 becomes 2^-24), because that is what is
 * stored; codes are taken of the stored scale.
 * @param amax largest magnitude of the segment, finite
 * @returns the float16 bits to store and their value
 */
export function weightScale(amax: number, format: WeightFormat, clip: number): { bits: number; scale: number } {
  const exact = f(f(amax) * f(f(clip) / largestOf(format)));
  const bits = toFloat16Bits(exact) || 1;
  return { bits, scale: fromFloat16Bits(bits) };
}
