/** Models of a single operator, for tests and benchmarks. */
import {
  float,
  inlineTensor,
  int,
  Model,
  string,
  type Attribute,
  type DType,
  type Tensor,
} from '../graph-rewrite/ir/index.js';
import { serializeModel } from '../graph-rewrite/onnx/write.js';

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
  /**
   * This many nodes read the same inputs, so that a benchmark can tell a node's time from a run's; default 1. Only the first one's
   * outputs are graph outputs, so sessions must not optimize the others away (`graphOptimizationLevel: 'disabled'`).
   */
  readonly copies?: number;
  /**
   * Each copy gets constants of its own, as the layers of a model have: weights then come from where they would come there. `equal`
   * ones are, in a saved file, the same bytes for every copy. ONNX Runtime may keep one packed form of equal constants for all
   * copies, which then stays in the caches; `different` ones differ by a rotation.
   */
  readonly ownConstants?: 'equal' | 'different';
}

const bytesOf = (data: Data): Uint8Array => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);

/** The tensor with its first bytes, `count` modulo its length, put behind the others. */
function rotated(tensor: Tensor, count: number): Tensor {
  const bytes = tensor.bytes();
  const at = count % bytes.length;
  if (!at) return tensor; // or of no bytes
  const turned = new Uint8Array(bytes.length);
  turned.set(bytes.subarray(at));
  turned.set(bytes.subarray(0, at), bytes.length - at);
  return inlineTensor(tensor.dtype, tensor.dims, turned);
}

/** The serialized model of one node (or copies of it). */
export function opModel(spec: OpSpec): Uint8Array {
  return serializeModel(buildOpModel(spec));
}

/** The model of one node (or copies of it). */
export function buildOpModel(spec: OpSpec): Model {
  const model = new Model({
    irVersion: 8,
    opsetImports: [
      ['', 17],
      ['lowbit', 1],
      ['com.microsoft', 1],
    ],
  });
  const tensors = spec.inputs.map((input) =>
    input?.constant ? inlineTensor(input.dtype, input.dims as number[], bytesOf(input.constant)) : undefined,
  );
  const constants = (copy: number) =>
    tensors.map((tensor, i) => {
      if (!tensor) return undefined;
      const name = `${spec.inputs[i]!.name}${copy > 0 ? `.${copy}` : ''}`;
      return model.graph.addInitializer(name, spec.ownConstants === 'different' ? rotated(tensor, 64 * copy) : tensor);
    });
  const fed = spec.inputs.map((input) =>
    input && !input.constant ? model.graph.addInput(input.name, input.dtype, [...input.dims]) : undefined,
  );
  const shared = constants(0);
  const attributes = Object.entries(spec.attributes).map(([name, value]): [string, Attribute] => {
    if (typeof value === 'string') return [name, string(value)];
    return [name, Number.isInteger(value) && !spec.floats?.includes(name) ? int(value) : float(value)];
  });
  const nodes = Array.from({ length: spec.copies ?? 1 }, (_, copy) => {
    const own = spec.ownConstants && copy > 0 ? constants(copy) : shared;
    const inputs = fed.map((value, i) => value ?? own[i]);
    return model.graph.addNode({
      opType: spec.op,
      domain: spec.domain ?? 'lowbit',
      name: `the ${spec.op}`,
      inputs,
      outputs: spec.outputs.map((output) => output?.name),
      attributes: Object.fromEntries(attributes),
    });
  });
  spec.outputs.forEach((output, i) => {
    const value = nodes[0]!.output(i);
    if (!output || !value) return;
    value.dtype = output.dtype;
    value.shape = [...output.dims];
    model.graph.addOutput(value);
  });
  return model;
}
