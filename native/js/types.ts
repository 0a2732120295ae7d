/**
 * The one table of tensor element types at the border: onnxruntime-common's names, ONNX's numbers, JavaScript's arrays.
 */
import type { Tensor } from 'onnxruntime-common';

export type TensorType = Tensor.Type;

/** ONNX element type numbers that a Tensor can hold. */
const numberOf: Readonly<Record<TensorType, number>> = {
  float32: 1,
  uint8: 2,
  int8: 3,
  uint16: 4,
  int16: 5,
  int32: 6,
  int64: 7,
  string: 8,
  bool: 9,
  float16: 10,
  float64: 11,
  uint32: 12,
  uint64: 13,
  uint4: 21,
  int4: 22,
};

/** Types a model may have at its border though no Tensor holds them. */
const otherNames = new Map([
  [14, 'complex64'],
  [15, 'complex128'],
  [16, 'bfloat16'],
  [17, 'float8e4m3fn'],
  [18, 'float8e4m3fnuz'],
  [19, 'float8e5m2'],
  [20, 'float8e5m2fnuz'],
  [23, 'float4e2m1'],
  [24, 'float8e8m0'],
  [25, 'uint2'],
  [26, 'int2'],
]);

const nameOf = new Map(Object.entries(numberOf).map(([name, number]) => [number, name as TensorType]));

/** Every type a Tensor can hold. */
export const tensorTypes: readonly TensorType[] = Object.keys(numberOf) as TensorType[];

/** ONNX's number of a type; undefined for a name that is no tensor type. */
export function elementNumber(type: string): number | undefined {
  return Object.hasOwn(numberOf, type) ? numberOf[type as TensorType] : undefined;
}

/** A type's name; undefined when no Tensor can hold it. */
export function tensorType(number: number): TensorType | undefined {
  return nameOf.get(number);
}

/** A name to show for any ONNX element type. */
export function typeName(number: number): string {
  return nameOf.get(number) ?? otherNames.get(number) ?? `element type ${number}`;
}

type TypedArrayConstructor = new (buffer: ArrayBuffer) => ArrayBufferView;

/** The typed array that onnxruntime-common uses for a type; undefined for strings. float16: Float16Array where there is one. */
export function arrayFor(type: TensorType): TypedArrayConstructor | undefined {
  switch (type) {
    case 'float32':
      return Float32Array;
    case 'uint8':
    case 'bool':
    case 'uint4':
    case 'int4':
      return Uint8Array;
    case 'int8':
      return Int8Array;
    case 'uint16':
      return Uint16Array;
    case 'int16':
      return Int16Array;
    case 'int32':
      return Int32Array;
    case 'uint32':
      return Uint32Array;
    case 'float64':
      return Float64Array;
    case 'int64':
      return BigInt64Array;
    case 'uint64':
      return BigUint64Array;
    case 'float16':
      return (globalThis as { Float16Array?: TypedArrayConstructor }).Float16Array ?? Uint16Array;
    case 'string':
      return undefined;
    default:
      return type satisfies never;
  }
}

/** Bytes of `count` elements; two 4-bit elements share a byte. */
export function byteLength(type: Exclude<TensorType, 'string'>, count: number): number {
  if (type === 'int4' || type === 'uint4') return Math.ceil(count / 2);
  const array = arrayFor(type) as unknown as { BYTES_PER_ELEMENT: number };
  return count * array.BYTES_PER_ELEMENT;
}
