/**
 * Tensors that live on a device: `location` 'gpu-buffer', their `gpuBuffer` a handle of ours, `getData()` downloads,
 * `dispose()` gives the memory back.
 */
import type { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import type { NativeDeviceTensor, NativeSession } from './addon.js';
import { common } from './common.js';
import { loadNative } from './load.js';
import { arrayFor, byteLength, elementNumber, type TensorType } from './types.js';

/** What `tensor.gpuBuffer` is here. WebGPU's buffers have the same two members. */
export class DeviceBuffer {
  readonly mapState = 'unmapped';
  /** Bytes. */
  readonly size: number;
  readonly #handle: NativeDeviceTensor;

  constructor(handle: NativeDeviceTensor, size: number) {
    this.#handle = handle;
    this.size = size;
  }

  static handleOf(buffer: DeviceBuffer): NativeDeviceTensor {
    return buffer.#handle;
  }

  static isOurs(buffer: unknown): buffer is DeviceBuffer {
    return typeof buffer === 'object' && buffer !== null && #handle in buffer;
  }
}

/** Types that onnxruntime-common lets a GPU tensor have. */
const gpuTypes: readonly TensorType[] = [
  'float32',
  'float16',
  'int32',
  'int64',
  'uint32',
  'uint8',
  'bool',
  'uint4',
  'int4',
];

/** A tensor over device memory; any type of fixed size. */
export function deviceTensor(
  type: TensorType,
  dims: readonly number[],
  handle: NativeDeviceTensor,
  size: number,
): Tensor {
  const { addon } = loadNative();
  const tensor = common.Tensor.fromGpuBuffer(new DeviceBuffer(handle, size), {
    // The constructor's list of types is WebGPU's; CUDA has all of them (a quantized cache is int8).
    dataType: (gpuTypes.includes(type) ? type : 'uint8') as Tensor.GpuBufferDataTypes,
    dims: [...dims],
    download: async () => {
      const array = arrayFor(type) as new (buffer: ArrayBuffer) => ArrayBufferView;
      return new array(await addon.download(handle, 0, size)) as never;
    },
    dispose: () => addon.dispose(handle),
  });
  (tensor as { type: TensorType }).type = type;
  return tensor;
}

/**
 * The native handle under a device tensor.
 * @throws LowbitError 'input' when its buffer is somebody else's (WebGPU)
 */
export function deviceHandle(where: string, tensor: Tensor): NativeDeviceTensor {
  const buffer: unknown = tensor.gpuBuffer;
  if (!DeviceBuffer.isOurs(buffer)) {
    throw inputError(where, 'its gpuBuffer is not one of ours, expected a device tensor made by ort-lowbit');
  }
  return DeviceBuffer.handleOf(buffer);
}

/**
 * Device memory of a session, all zeros.
 * @throws TypeError for a type without a fixed size
 */
export async function allocateOnDevice(
  session: NativeSession,
  type: TensorType,
  dims: readonly number[],
): Promise<Tensor> {
  const number = elementNumber(type);
  if (number === undefined || type === 'string') {
    throw new TypeError(`device tensor: type is ${type}, expected a tensor type of fixed size.`);
  }
  const handle = await loadNative().addon.allocate(session, number, dims);
  const count = dims.reduce((product, dim) => product * dim, 1);
  return deviceTensor(type, dims, handle, byteLength(type, count));
}

/**
 * Copies elements of a device tensor to a flat tensor of the host.
 * @param offset elements before the first one wanted
 * @throws LowbitError 'input' for elements outside the tensor, or a type whose elements are smaller than a byte
 */
export async function copyFromDevice(source: Tensor, offset: number, count: number): Promise<Tensor> {
  const { type, size } = source;
  if (type === 'string' || type === 'int4' || type === 'uint4')
    throw inputError('device tensor', `is ${type}, expected elements of whole bytes`);
  if (!(offset >= 0 && count >= 0 && offset + count <= size))
    throw inputError(
      'device tensor',
      `has ${size} elements, expected a range within it, not ${offset} … ${offset + count}`,
    );
  const handle = deviceHandle('device tensor', source);
  const bytes = await loadNative().addon.download(handle, byteLength(type, offset), byteLength(type, count));
  const array = arrayFor(type) as new (buffer: ArrayBuffer) => ArrayBufferView;
  return new common.Tensor(type, new array(bytes) as Tensor.DataType, [count]);
}

/**
 * Overwrites a device tensor; its address stays.
 * @throws LowbitError 'input' when type or dims differ
 */
export async function copyToDevice(source: Tensor, target: Tensor): Promise<void> {
  const [from, to] = [source, target].map((tensor) => `${tensor.type}[${tensor.dims.join(', ')}]`);
  if (from !== to) throw inputError('device tensor', `is ${to}, expected ${from}, which is to be copied into it`);
  const data = (await source.getData()) as Exclude<Tensor.DataType, string[]>;
  const bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  await loadNative().addon.upload(deviceHandle('device tensor', target), bytes);
}
