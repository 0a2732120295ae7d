/** Asymmetric quantization of key and value rows, step by step as in `ops/formats/README.md`. */
import { fromFloat16Bits, toFloat16Bits } from '../common/float16.js';
import { amaxBits, roundHalfEven } from './quantize-segment.js';

const f = Math.fround;
const nanBits = 0x7e00;

/** Bits of a cache code. */
export type KvBits = 4 | 8;

/** Bytes that the codes of one row of `headDim` channels take. */
export function kvRowBytes(headDim: number, bits: KvBits): number {
  return (headDim * bits) / 8;
}

/** Parameters of a row: float16 bit patterns. */
export interface KvRowParameters {
  readonly scale: number;
  readonly min: number;
}

/**
 * Quantizes one row.
 * @param values D channels, binary32
 * @param clip fraction of the row's range that the codes span
 * @param codes receives `kvRowBytes(D, bits)` bytes
 */
export function quantizeKvRow(values: Float32Array, bits: KvBits, clip: number, codes: Uint8Array): KvRowParameters {
  codes.fill(0);
  if (amaxBits(values) >= 0x7f800000) return { scale: nanBits, min: nanBits };
  const last = 2 ** bits - 1;
  const lo = Math.min(...values) + 0;
  const d = f(Math.max(...values) + 0 - lo);
  const step = f(d * f(f(clip) / last));
  const low = f(lo + f(d * f(f(1 - f(clip)) / 2)));
  const scaleBits = toFloat16Bits(step);
  const lowBits = toFloat16Bits(low);
  const min = lowBits === 0x8000 ? 0 : lowBits;
  if ((scaleBits & 0x7fff) >= 0x7c00 || (min & 0x7fff) >= 0x7c00) return { scale: nanBits, min: nanBits };
  if (scaleBits === 0) return { scale: 0, min };
  const inverse = f(1 / fromFloat16Bits(scaleBits));
  const base = fromFloat16Bits(min);
  values.forEach((value, i) => {
    const code = Math.min(last, Math.max(0, roundHalfEven(f(f(value - base) * inverse))));
    if (bits === 8) codes[i] = code;
    else codes[i >> 1]! |= code << (4 * (i & 1));
  });
  return { scale: scaleBits, min };
}

/** The row that codes and parameters stand for, binary32; NaN if a parameter is. */
export function dequantizeKvRow(codes: Uint8Array, bits: KvBits, { scale, min }: KvRowParameters): Float32Array {
  const [step, base] = [fromFloat16Bits(scale), fromFloat16Bits(min)];
  const codeAt = (i: number) => (bits === 8 ? codes[i]! : (codes[i >> 1]! >> (4 * (i & 1))) & 15);
  return Float32Array.from({ length: (codes.length * 8) / bits }, (_, i) => codeAt(i) * step + base);
}
