// The one table of element types: our name, ONNX's number, bits per element.
import { inputError } from '../../ops/common/errors.js';

const table = {
  float32: [1, 32],
  uint8: [2, 8],
  int8: [3, 8],
  uint16: [4, 16],
  int16: [5, 16],
  int32: [6, 32],
  int64: [7, 64],
  string: [8, 0],
  bool: [9, 8],
  float16: [10, 16],
  float64: [11, 64],
  uint32: [12, 32],
  uint64: [13, 64],
  complex64: [14, 64],
  complex128: [15, 128],
  bfloat16: [16, 16],
  float8e4m3fn: [17, 8],
  float8e4m3fnuz: [18, 8],
  float8e5m2: [19, 8],
  float8e5m2fnuz: [20, 8],
  uint4: [21, 4],
  int4: [22, 4],
  float4e2m1: [23, 4],
  float8e8m0: [24, 8],
  uint2: [25, 2],
  int2: [26, 2],
} as const satisfies Record<string, readonly [onnx: number, bits: number]>;

export type KnownDType = keyof typeof table;
/** An element type; numbers that the table does not know keep their number, so that they can be written back. */
export type DType = KnownDType | `unknown:${number}`;

const byNumber = new Map<number, KnownDType>(Object.entries(table).map(([name, row]) => [row[0], name as KnownDType]));

export function dtypeFromOnnx(number: number): DType {
  return byNumber.get(number) ?? `unknown:${number}`;
}

export function dtypeToOnnx(dtype: DType): number {
  return dtype in table ? table[dtype as KnownDType][0] : Number(dtype.slice('unknown:'.length));
}

/** Bits per element; undefined for strings and for types the table does not know. */
export function bitsPerElement(dtype: DType): number | undefined {
  return dtype in table ? table[dtype as KnownDType][1] || undefined : undefined;
}

/**
 * Bytes of `count` packed elements (4- and 2-bit types share bytes).
 * @throws LowbitError 'input' for strings and unknown types, which have no fixed size
 */
export function byteLength(dtype: DType, count: number): number {
  const bits = bitsPerElement(dtype);
  if (bits === undefined) throw inputError(`type ${dtype}`, 'has no fixed element size');
  return Math.ceil((count * bits) / 8);
}
