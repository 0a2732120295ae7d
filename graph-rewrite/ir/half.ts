// float16 and bfloat16, to and from float32.

const halfTable = buildHalfTable();
const float = new Float32Array(1);
const word = new Uint32Array(float.buffer);

function buildHalfTable(): Float32Array {
  const values = new Float32Array(65536);
  for (let half = 0; half < 65536; half++) {
    const exponent = (half >> 10) & 31;
    const fraction = half & 1023;
    const magnitude =
      exponent === 0
        ? fraction * 2 ** -24
        : exponent === 31
          ? fraction
            ? NaN
            : Infinity
          : (1024 + fraction) * 2 ** (exponent - 25);
    values[half] = half & 0x8000 ? -magnitude : magnitude;
  }
  return values;
}

/** float16 bit patterns to float32 values. */
export function halfToFloat(source: Uint16Array, target = new Float32Array(source.length)): Float32Array {
  for (let i = 0; i < source.length; i++) target[i] = halfTable[source[i]!]!;
  return target;
}

/** bfloat16 bit patterns to float32 values. */
export function bfloatToFloat(source: Uint16Array): Float32Array {
  const target = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) target[i] = source[i]! << 16;
  return new Float32Array(target.buffer);
}

/** float32 values to float16 bit patterns, rounded half to even; beyond the range becomes infinity. */
export function floatToHalf(source: Float32Array, target = new Uint16Array(source.length)): Uint16Array {
  for (let i = 0; i < source.length; i++) target[i] = halfBits(source[i]!);
  return target;
}

function halfBits(value: number): number {
  float[0] = value;
  const bits = word[0]!;
  const sign = (bits >>> 16) & 0x8000;
  const magnitude = bits & 0x7fff_ffff;
  if (magnitude > 0x7f80_0000) return sign | 0x7e00;
  if (magnitude >= 0x4780_0000) return sign | 0x7c00; // 65536 and up; 65520 ... 65535 round up below
  if (magnitude < 0x3880_0000) {
    // Subnormal: adding 0.5 puts the float16 unit, 2^-24, at float32's last bit, so the hardware rounds half to even.
    float[0] = Math.abs(value) + 0.5;
    return sign | (word[0]! - 0x3f00_0000);
  }
  const odd = (magnitude >>> 13) & 1;
  return sign | ((magnitude - 0x3800_0000 + 0xfff + odd) >>> 13);
}
