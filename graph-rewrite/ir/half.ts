// float16 and bfloat16 arrays to float32, fast enough for whole weights.
import { fromFloat16Bits } from '../../ops/common/float16.js';

/** The value of every float16 bit pattern. */
const values = Float32Array.from({ length: 65536 }, (_, bits) => fromFloat16Bits(bits));

/** float16 bit patterns to float32 values. */
export function halfToFloat(source: Uint16Array): Float32Array {
  const target = new Float32Array(source.length);
  for (let i = 0; i < source.length; i++) target[i] = values[source[i]!]!;
  return target;
}

/** bfloat16 bit patterns to float32 values. */
export function bfloatToFloat(source: Uint16Array): Float32Array {
  const target = new Uint32Array(source.length);
  for (let i = 0; i < source.length; i++) target[i] = source[i]! << 16;
  return new Float32Array(target.buffer);
}
