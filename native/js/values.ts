/**
 * Feeds, fetches and results: onnxruntime-common tensors on one side, plain native values on the other. Everything a
 * caller can get wrong about a tensor is found here, by name, before native code sees it.
 */
import type { InferenceSession as OrtSession, Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import type { NativeDeviceTensor, NativeOutput, NativeValue } from './addon.js';
import { show } from './check-option.js';
import { common } from './common.js';
import { deviceHandle, deviceTensor } from './device.js';
import { arrayFor, byteLength, elementNumber, tensorType, tensorTypes, typeName } from './types.js';

type ValueMetadata = OrtSession.ValueMetadata;

/** What a model's input or output is, in words: `float32[batch, 3]`. */
export function describeType(metadata: ValueMetadata): string {
  if (!metadata.isTensor) return 'no tensor';
  return `${metadata.type}[${metadata.shape.map((dim) => (dim === '' ? '?' : dim)).join(', ')}]`;
}

/**
 * A tensor as native code takes it, checked against the model's declaration.
 * @param kind 'input' or 'output', for messages
 * @throws TypeError when the value is no tensor; LowbitError 'input' when its type, rank or a dimension does not fit
 */
export function toNative(kind: 'input' | 'output', value: unknown, metadata: ValueMetadata): NativeValue {
  const where = `${kind} "${metadata.name}"`;
  if (!isTensorLike(value)) throw new TypeError(`${where}: is ${show(value)}, expected a Tensor.`);
  if (!metadata.isTensor) {
    throw inputError(where, 'the model declares no tensor here, expected only tensors at the border of a model');
  }
  checkFit(where, value, metadata);
  const type = elementNumber(value.type) as number;
  switch (value.location) {
    case 'cpu':
    case 'cpu-pinned':
      return { type, dims: value.dims, data: bytesOf(where, value) };
    case 'gpu-buffer':
      return deviceHandle(where, value);
    case 'none':
      throw inputError(where, 'the tensor is disposed, expected a live one');
    default:
      throw inputError(where, `lies in '${value.location}', expected 'cpu', 'cpu-pinned' or 'gpu-buffer'`);
  }
}

/** Duck typing on purpose: the ESM and the CommonJS build of onnxruntime-common have two Tensor classes. */
function isTensorLike(value: unknown): value is Tensor {
  const tensor = value as Partial<Tensor> | null;
  return (
    typeof tensor === 'object' &&
    tensor !== null &&
    typeof tensor.type === 'string' &&
    typeof tensor.location === 'string' &&
    Array.isArray(tensor.dims)
  );
}

function checkFit(where: string, tensor: Tensor, metadata: OrtSession.TensorValueMetadata): void {
  const { type, dims } = tensor;
  const { shape } = metadata;
  // No dimensions may mean a scalar or a shape that the model does not state; ONNX Runtime tells them apart itself.
  const fits =
    type === metadata.type &&
    elementNumber(type) !== undefined &&
    (shape.length === 0 ||
      (dims.length === shape.length && shape.every((dim, i) => typeof dim !== 'number' || dim === dims[i])));
  if (!fits) throw misfit(where, tensor, metadata);
}

function misfit(where: string, { type, dims }: Tensor, metadata: OrtSession.TensorValueMetadata): Error {
  const found = `is ${type}[${dims.join(', ')}]`;
  const expected = describeType(metadata);
  const { shape } = metadata;
  if (elementNumber(type) === undefined)
    return inputError(where, `${found}, expected one of the types ${tensorTypes.join(', ')}`);
  if (type !== metadata.type) return inputError(where, `${found}, expected the type of ${expected}`);
  if (dims.length !== shape.length)
    return inputError(where, `${found} of rank ${dims.length}, expected rank ${shape.length}: ${expected}`);
  const axis = shape.findIndex((dim, i) => typeof dim === 'number' && dim !== dims[i]);
  return inputError(where, `${found} with ${dims[axis]} at dimension ${axis}, expected ${shape[axis]}: ${expected}`);
}

function bytesOf(where: string, tensor: Tensor): Uint8Array | readonly string[] {
  const data: unknown = tensor.data;
  const count = tensor.dims.reduce((product, dim) => product * dim, 1);
  if (tensor.type === 'string') {
    const strings = data as readonly unknown[];
    const odd = strings.findIndex((text) => typeof text !== 'string');
    if (odd >= 0) throw inputError(where, `element ${odd} is ${show(strings[odd])}, expected a string`);
    return strings as readonly string[];
  }
  if (!ArrayBuffer.isView(data)) throw inputError(where, `its data is ${show(data)}, expected a typed array`);
  const expected = byteLength(tensor.type, count);
  if (data.byteLength !== expected) {
    throw inputError(
      where,
      `its data has ${data.byteLength} bytes, expected ${expected} for ${tensor.type}[${tensor.dims.join(', ')}]`,
      'A detached buffer has 0 bytes.',
    );
  }
  // A view of bytes whatever the element type: runtimes differ in what they say about a Float16Array.
  return data.byteLength === 0 ? new Uint8Array(0) : new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** Names and metadata of a model's inputs or outputs in onnxruntime-common's form. */
export function toMetadata(info: { name: string; type: number; shape: readonly (number | string)[] }): ValueMetadata {
  if (info.type === 0) return { name: info.name, isTensor: false };
  // A type outside onnxruntime-common's list (bfloat16, float8) is still named; only feeding it is refused.
  return { name: info.name, isTensor: true, type: typeName(info.type) as Tensor.Type, shape: info.shape };
}

/**
 * A tensor over what native code returned.
 * @throws LowbitError 'input' for an element type that no Tensor can hold
 */
export function fromNative(name: string, value: NativeOutput): Tensor {
  const type = tensorType(value.type);
  if (type === undefined) {
    throw inputError(
      `output "${name}"`,
      `is ${typeName(value.type)}, expected one of ${tensorTypes.join(', ')}`,
      'Cast it in the graph.',
    );
  }
  if (Array.isArray(value.data)) return new common.Tensor('string', value.data, value.dims);
  if (value.data instanceof ArrayBuffer) {
    const array = arrayFor(type) as new (buffer: ArrayBuffer) => ArrayBufferView;
    return new common.Tensor(type, new array(value.data) as Tensor.DataType, value.dims);
  }
  return deviceTensor(type, value.dims, value.data as NativeDeviceTensor, value.byteLength ?? 0);
}
