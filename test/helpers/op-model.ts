/** Sessions that run one operator through a real ONNX Runtime, and its float tensors of both graph types. */
import { InferenceSession, Tensor, type SessionOptions } from '../../native/js/index.js';
import { fromFloat16Array, toFloat16Array } from '../../ops/common/float16.js';
import { opModel, type OpSpec } from '../../models/op-model.js';

export type { InputSpec, OpSpec } from '../../models/op-model.js';

/** The float type of a graph. */
export type GraphType = 'float32' | 'float16';

/** A session over one node. */
export async function opSession(spec: OpSpec, options: SessionOptions = {}): Promise<InferenceSession> {
  return InferenceSession.create(opModel(spec), { logSeverityLevel: 4, ...options });
}

/** A float tensor of the graph's type; float16 values must be representable. */
export function floatTensor(type: GraphType, values: Float32Array, dims: readonly number[]): Tensor {
  return type === 'float32'
    ? new Tensor('float32', values, dims)
    : new Tensor('float16', toFloat16Array(values) as never, dims);
}

/** A float output as binary32. */
export function floatsOf(tensor: Tensor): Float32Array {
  const data = tensor.data as Float32Array | Uint16Array;
  if (tensor.type === 'float32') return data as Float32Array;
  return fromFloat16Array(new Uint16Array(data.buffer, data.byteOffset, data.length));
}

/** Constant data of the graph's float type. */
export function constantFloats(type: GraphType, values: Float32Array): Float32Array | Uint16Array {
  return type === 'float32' ? values : toFloat16Array(values);
}
