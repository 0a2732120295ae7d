// Constant tensors. Bytes are asked for, never held: they are a view on the model file, a range of a data file, or computed on demand.
import { inputError, internalError } from '../../ops/common/errors.js';
import { bitsPerElement, byteLength, type DType } from '../onnx/dtype.js';
import type { TensorProto } from '../onnx/messages.js';
import { bfloatToFloat, halfToFloat } from './half.js';

export interface Tensor {
  readonly dtype: DType;
  readonly dims: readonly number[];
  /** Size of the data in bytes, little endian, as in ONNX's raw_data. */
  readonly byteLength: number;
  /** The data. Do not write to it: it may be a view on the model. */
  bytes(): Uint8Array;
  /** `length` bytes from `start`, where that is cheaper than all of them. */
  read?(start: number, length: number): Uint8Array;
  /** The message it was read from; what we do not model is written back from there. */
  readonly source?: TensorProto;
}

/** A tensor over bytes in memory; `bytes` is kept, not copied. */
export function inlineTensor(dtype: DType, dims: readonly number[], bytes: Uint8Array): Tensor {
  const expected = byteLength(dtype, product(dims));
  if (bytes.byteLength !== expected) {
    throw internalError(`tensor ${dtype}[${dims.join(',')}]`, `has ${bytes.byteLength} bytes, expected ${expected}`);
  }
  return {
    dtype,
    dims,
    byteLength: expected,
    bytes: () => bytes,
    read: (start, length) => bytes.subarray(start, start + length),
  };
}

/** A tensor whose bytes are produced when they are needed (at save), each time anew; `produce` must be deterministic. */
export function lazyTensor(dtype: DType, dims: readonly number[], produce: () => Uint8Array): Tensor {
  return { dtype, dims, byteLength: byteLength(dtype, product(dims)), bytes: produce };
}

/** A tensor over a typed array, whose type gives the element type. */
export function tensorOf(
  data: Float32Array | Float64Array | Int32Array | Int8Array | Uint8Array | BigInt64Array | number[],
  dims: readonly number[] = [data.length],
): Tensor {
  if (Array.isArray(data)) return tensorOf(BigInt64Array.from(data, BigInt), dims);
  const dtype =
    data instanceof Float32Array
      ? 'float32'
      : data instanceof Float64Array
        ? 'float64'
        : data instanceof Int32Array
          ? 'int32'
          : data instanceof Int8Array
            ? 'int8'
            : data instanceof Uint8Array
              ? 'uint8'
              : 'int64';
  return inlineTensor(dtype, dims, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
}

export function elementCount(tensor: Tensor): number {
  return product(tensor.dims);
}

/**
 * Elements `start` … `start + count` of a float tensor as float32, in a new array. Reads no more than that range of a data file.
 * @throws LowbitError 'input' if the tensor holds no floats
 */
export function readFloats(tensor: Tensor, start = 0, count = elementCount(tensor) - start): Float32Array {
  const size = (bitsPerElement(tensor.dtype) ?? 0) / 8;
  const range = () => readRange(tensor, start * size, count * size);
  switch (tensor.dtype) {
    case 'float32':
      return new Float32Array(range().buffer);
    case 'float64':
      return Float32Array.from(new Float64Array(range().buffer));
    case 'float16':
      return halfToFloat(new Uint16Array(range().buffer));
    case 'bfloat16':
      return bfloatToFloat(new Uint16Array(range().buffer));
    default:
      throw inputError(describe(tensor), 'expected float32, float16, bfloat16 or float64 elements');
  }
}

/**
 * All elements of a (small) integer or bool tensor.
 * @throws LowbitError 'input' if it holds no integers, or one beyond 2^53
 */
export function readInts(tensor: Tensor): number[] {
  const bytes = readRange(tensor, 0, tensor.byteLength);
  switch (tensor.dtype) {
    case 'int64':
      return Array.from(new BigInt64Array(bytes.buffer), (value) => exactNumber(value, tensor));
    case 'uint64':
      return Array.from(new BigUint64Array(bytes.buffer), (value) => exactNumber(value, tensor));
    case 'int32':
      return Array.from(new Int32Array(bytes.buffer));
    case 'uint32':
      return Array.from(new Uint32Array(bytes.buffer));
    case 'int16':
      return Array.from(new Int16Array(bytes.buffer));
    case 'uint16':
      return Array.from(new Uint16Array(bytes.buffer));
    case 'int8':
      return Array.from(new Int8Array(bytes.buffer));
    case 'uint8':
    case 'bool':
      return Array.from(bytes);
    case 'int4':
    case 'uint4':
      return Array.from({ length: elementCount(tensor) }, (_, i) => {
        const nibble = (bytes[i >> 1]! >> (4 * (i & 1))) & 15;
        return tensor.dtype === 'int4' && nibble > 7 ? nibble - 16 : nibble;
      });
    default:
      throw inputError(describe(tensor), 'expected integer elements');
  }
}

/** `float32[2,3]`, with its name where it has one. */
export function describe(tensor: Tensor): string {
  const name = tensor.source?.name;
  return `tensor ${name ? `"${name}" ` : ''}${tensor.dtype}[${tensor.dims.join(',')}]`;
}

/** A copy of a byte range, at the start of an ArrayBuffer of its own so that any typed array may view it. */
function readRange(tensor: Tensor, start: number, length: number): Uint8Array & { buffer: ArrayBuffer } {
  const view = tensor.read?.(start, length) ?? tensor.bytes().subarray(start, start + length);
  if (view.byteLength !== length) {
    throw inputError(describe(tensor), `holds ${view.byteLength} bytes from byte ${start}, expected ${length}`);
  }
  return new Uint8Array(view);
}

function exactNumber(value: bigint, tensor: Tensor): number {
  const number = Number(value);
  if (!Number.isSafeInteger(number))
    throw inputError(describe(tensor), `holds ${value}, beyond the integers of a double`);
  return number;
}

function product(dims: readonly number[]): number {
  return dims.reduce((total, dim) => total * dim, 1);
}
