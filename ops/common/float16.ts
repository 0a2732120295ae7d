/** IEEE binary16 <-> binary32, round to nearest even: the conversion every kernel does in hardware. */

const word = new Uint32Array(1);
const single = new Float32Array(word.buffer);

/** The binary16 bit pattern nearest to the binary32 `value` (ties to even; overflow gives an infinity, NaN a quiet NaN). */
export function toFloat16Bits(value: number): number {
  single[0] = value;
  const bits = word[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fffffff;
  if (magnitude > 0x7f800000) return sign | 0x7e00 | ((magnitude >>> 13) & 0x3ff);
  if (magnitude >= 0x47800000) return sign | 0x7c00; // 2^16 and above, infinity
  if (magnitude < 0x38800000) {
    // Below 2^-14 the result is a multiple of 2^-24: adding 0.5, whose last place is 2^-24, rounds to it.
    single[0] = Math.fround(Math.abs(value)) + 0.5;
    return sign | (word[0]! - 0x3f000000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x38000000 + 0xfff + odd) >>> 13); // a carry out of 65504 lands on infinity
}

/** The value of a binary16 bit pattern; exact. */
export function fromFloat16Bits(bits: number): number {
  const rest = bits & 0x7fff;
  if (rest > 0x7c00) return NaN;
  word[0] = rest << 13;
  // The exponent moves up by 112, which also normalizes subnormals; infinity is past what a product can reach.
  const magnitude = rest === 0x7c00 ? Infinity : single[0]! * 2 ** 112;
  return bits & 0x8000 ? -magnitude : magnitude;
}

/** `value` rounded to binary16. */
export function roundToFloat16(value: number): number {
  return fromFloat16Bits(toFloat16Bits(value));
}

/** Rounds every element to binary16 bit patterns, the form ONNX Runtime's float16 tensors use in JavaScript. */
export function toFloat16Array(values: ArrayLike<number>): Uint16Array {
  const bits = new Uint16Array(values.length);
  for (let i = 0; i < bits.length; i++) bits[i] = toFloat16Bits(values[i]!);
  return bits;
}

/** Rounds every element to bfloat16 bit patterns: the upper half of binary32, to nearest even; NaN becomes a quiet NaN. */
export function toBfloat16Array(values: ArrayLike<number>): Uint16Array {
  const result = new Uint16Array(values.length);
  for (let i = 0; i < result.length; i++) {
    single[0] = values[i]!;
    const bits = word[0]!;
    result[i] = (bits & 0x7fffffff) > 0x7f800000 ? (bits >>> 16) | 0x40 : (bits + 0x7fff + ((bits >>> 16) & 1)) >>> 16;
  }
  return result;
}

/** Widens binary16 bit patterns; exact. */
export function fromFloat16Array(bits: ArrayLike<number>): Float32Array {
  const values = new Float32Array(bits.length);
  for (let i = 0; i < values.length; i++) values[i] = fromFloat16Bits(bits[i]!);
  return values;
}
