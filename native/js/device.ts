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

/** A tensor over device memory. onnxruntime-common allows float32, float16, int32, int64, uint32, uint8, bool and 4-bit types. */
export function deviceTensor(type: TensorType, dims: number[], handle: NativeDeviceTensor, size: number): Tensor {
  const { addon } = loadNative();
  return common.Tensor.fromGpuBuffer(new DeviceBuffer(handle, size), {
    dataType: type as Tensor.GpuBufferDataTypes,
    dims,
    download: async () => {
      const array = arrayFor(type) as new (buffer: ArrayBuffer) => ArrayBufferView;
      return new array(await addon.download(handle)) as never;
    },
    dispose: () => addon.dispose(handle),
  });
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
 * Device memory of a session, filled from a tensor or left as it is.
 * @throws TypeError for a type without a fixed size
 */
export async function allocateOnDevice(
  session: NativeSession,
  source: Tensor | { readonly type: TensorType; readonly dims: readonly number[] },
): Promise<Tensor> {
  const { type, dims } = source;
  const number = elementNumber(type);
  if (number === undefined || type === 'string') {
    throw new TypeError(`toDevice: type is ${type}, expected a tensor type of fixed size.`);
  }
  let bytes: Uint8Array | null = null;
  if ('location' in source) {
    const data = (await source.getData()) as Exclude<Tensor.DataType, string[]>;
    bytes = new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  }
  const handle = await loadNative().addon.allocate(session, number, dims, bytes);
  const count = dims.reduce((product, dim) => product * dim, 1);
  return deviceTensor(type, [...dims], handle, byteLength(type, count));
}
