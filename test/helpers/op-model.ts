/** One-node models that run one operator through a real ONNX Runtime session. */
import { InferenceSession, Tensor, type SessionOptions } from '../../native/js/index.js';
import { toFloat16Array, fromFloat16Array } from '../../ops/common/float16.js';
import { float, inlineTensor, int, Model, string, type Attribute, type DType } from '../../graph-rewrite/ir/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';

/** The float type of a graph. */
export type GraphType = 'float32' | 'float16';

type Data = Float32Array | Int8Array | Uint8Array | Uint16Array | Int32Array;

/** An input of the node: a graph input (its leading dimensions vary from run to run) or a constant. */
export interface InputSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly dims: readonly (number | string)[];
  /** Makes the input a constant of the model. */
  readonly constant?: Data | undefined;
}

export interface OutputSpec {
  readonly name: string;
  readonly dtype: DType;
  readonly dims: readonly (number | string)[];
}

export interface OpSpec {
  readonly op: string;
  /** '' for ONNX's own operators. */
  readonly domain?: string;
  /** In the operator's order; undefined skips an optional one. */
  readonly inputs: readonly (InputSpec | undefined)[];
  readonly outputs: readonly (OutputSpec | undefined)[];
  /** Numbers that are whole become ints unless listed in `floats`. */
  readonly attributes: Readonly<Record<string, number | string>>;
  readonly floats?: readonly string[];
}

const bytesOf = (data: Data): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** The serialized model of one node. */
export function opModel(spec: OpSpec): Uint8Array {
  const model = new Model({
    irVersion: 8,
    opsetImports: [
      ['', 17],
      ['lowbit', 1],
      ['com.microsoft', 1],
    ],
  });
  const inputs = spec.inputs.map((input) => {
    if (!input) return undefined;
    if (!input.constant) return model.graph.addInput(input.name, input.dtype, [...input.dims]);
    const tensor = inlineTensor(input.dtype, input.dims as number[], bytesOf(input.constant));
    return model.graph.addInitializer(input.name, tensor);
  });
  const attributes = Object.entries(spec.attributes).map(([name, value]): [string, Attribute] => {
    if (typeof value === 'string') return [name, string(value)];
    return [name, Number.isInteger(value) && !spec.floats?.includes(name) ? int(value) : float(value)];
  });
  const node = model.graph.addNode({
    opType: spec.op,
    domain: spec.domain ?? 'lowbit',
    name: `the ${spec.op}`,
    inputs,
    outputs: spec.outputs.map((output) => output?.name),
    attributes: Object.fromEntries(attributes),
  });
  spec.outputs.forEach((output, i) => {
    const value = node.output(i);
    if (!output || !value) return;
    value.dtype = output.dtype;
    value.shape = [...output.dims];
    model.graph.addOutput(value);
  });
  return serializeModel(model);
}

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
