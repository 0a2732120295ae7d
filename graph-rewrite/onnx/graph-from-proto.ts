// GraphProto → Graph, subgraphs included.
import { inputError } from '../../ops/common/errors.js';
import type { Attribute } from '../ir/attributes.js';
import { Graph } from '../ir/graph.js';
import { Node } from '../ir/node.js';
import type { Tensor } from '../ir/tensor.js';
import type { Dim, Value } from '../ir/value.js';
import { dtypeFromOnnx, type DType } from './dtype.js';
import { fromInt64 } from './int64.js';
import type { AttributeProto, DimensionProto, GraphProto, NodeProto, TensorProto, ValueInfoProto } from './messages.js';
import { EXTERNAL, tensorFromProto } from './tensor-proto.js';

type OpenExternal = (tensor: TensorProto) => Tensor;

/**
 * Fills an empty graph. Values are made before any node looks for them, so subgraphs see all names around them; an input that nothing
 * defines becomes a value without producer, which `checkModel` reports.
 * @throws LowbitError 'input' if two definitions have one name
 */
export function graphFromProto(graph: Graph, proto: GraphProto, openExternal: OpenExternal): void {
  for (const info of proto.input ?? []) {
    const value = define(graph, info.name ?? '');
    value.isGraphInput = true;
    declare(value, info);
    graph.inputs.push(value);
  }
  for (const tensor of proto.initializer ?? []) {
    const name = tensor.name ?? '';
    const input = graph.ownValue(name);
    const value = input?.isGraphInput && !input.initializer ? input : define(graph, name);
    value.initializer = toTensor(tensor, openExternal);
  }
  for (const sparse of proto.sparseInitializer ?? []) {
    const value = define(graph, sparse.values?.name ?? '');
    value.isSparseInitializer = true;
    value.dtype = dtypeFromOnnx(sparse.values?.dataType ?? 0);
    value.shape = (sparse.dims ?? []).map((dim) => Number(fromInt64(dim)));
  }
  for (const node of proto.node ?? []) for (const name of node.output ?? []) if (name !== '') define(graph, name);
  for (const info of proto.valueInfo ?? []) declare(graph.ownValue(info.name ?? ''), info);
  for (const info of proto.output ?? []) {
    const value = graph.value(info.name ?? '') ?? graph.createValue(info.name ?? '');
    declare(value, info);
    value.isGraphOutput = true;
    graph.outputs.push(value);
  }
  for (const node of proto.node ?? []) graph.attachNode(nodeFromProto(graph, node, openExternal));
}

function define(graph: Graph, name: string): Value {
  if (graph.ownValue(name))
    throw inputError(graph.at, `defines "${name}" twice, expected once`, 'Export the model again; it cannot run.');
  return graph.createValue(name);
}

function nodeFromProto(graph: Graph, proto: NodeProto, openExternal: OpenExternal): Node {
  const fields = {
    opType: proto.opType ?? '',
    domain: proto.domain === undefined || proto.domain === 'ai.onnx' ? '' : proto.domain,
    name: proto.name ?? '',
    attributes: new Map(
      (proto.attribute ?? []).map((attribute) => [
        attribute.name ?? '',
        attributeFromProto(graph, attribute, openExternal),
      ]),
    ),
    metadata: new Map((proto.metadataProps ?? []).map((entry) => [entry.key ?? '', entry.value ?? ''])),
  };
  const inputs = (proto.input ?? []).map((name) =>
    name === '' ? undefined : (graph.value(name) ?? graph.createValue(name)),
  );
  const outputs = (proto.output ?? []).map((name) => (name === '' ? undefined : graph.ownValue(name)));
  return new Node(graph, fields, inputs, outputs, proto);
}

/** Kinds by AttributeProto.type; files of IR version 1 … 3 may leave the type out, then the field that is set tells. */
function attributeFromProto(graph: Graph, proto: AttributeProto, openExternal: OpenExternal): Attribute {
  const kind = proto.type ?? 0;
  const is = (number: number, set: unknown) => kind === number || (kind === 0 && set !== undefined);
  if (proto.refAttrName !== undefined && proto.refAttrName !== '') return { type: 'opaque', proto };
  if (is(1, proto.f)) return { type: 'float', value: proto.f ?? 0, proto };
  if (is(2, proto.i)) return { type: 'int', value: proto.i ? fromInt64(proto.i) : 0, proto };
  if (is(3, proto.s)) return { type: 'string', value: text(proto.s ?? new Uint8Array()), proto };
  if (is(4, proto.t) && proto.t) return { type: 'tensor', value: toTensor(proto.t, openExternal), proto };
  if (is(5, proto.g) && proto.g) {
    const subgraph = new Graph(graph.model, proto.g.name ?? '', graph, proto.g);
    graphFromProto(subgraph, proto.g, openExternal);
    return { type: 'graph', value: subgraph, proto };
  }
  if (is(6, proto.floats)) return { type: 'floats', value: proto.floats ?? [], proto };
  if (is(7, proto.ints)) return { type: 'ints', value: (proto.ints ?? []).map(fromInt64), proto };
  if (is(8, proto.strings)) return { type: 'strings', value: (proto.strings ?? []).map(text), proto };
  return { type: 'opaque', proto };
}

function toTensor(proto: TensorProto, openExternal: OpenExternal): Tensor {
  return proto.dataLocation === EXTERNAL ? openExternal(proto) : tensorFromProto(proto);
}

/** Takes over element type and dims that a model declares for a value, unless a constant knows better. */
function declare(value: Value | undefined, info: ValueInfoProto): void {
  if (!value || value.initializer) return;
  const { dtype, shape } = declaredType(info);
  if (dtype !== undefined) value.dtype = dtype;
  if (shape !== undefined) value.shape = shape;
}

/** The tensor type in a declaration; empty for sequences, maps and so on. */
export function declaredType(info: ValueInfoProto): { dtype?: DType; shape?: Dim[] } {
  const tensor = info.type?.tensorType;
  return {
    ...(tensor?.elemType ? { dtype: dtypeFromOnnx(tensor.elemType) } : {}),
    ...(tensor?.shape ? { shape: (tensor.shape.dim ?? []).map(dimension) } : {}),
  };
}

function dimension(dim: DimensionProto): Dim {
  // A oneof: the message's prototype answers 0 for the member that is not set.
  if (Object.hasOwn(dim, 'dimValue') && dim.dimValue) return Number(fromInt64(dim.dimValue));
  return dim.dimParam || undefined;
}

function text(bytes: Uint8Array): string {
  return Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength).toString('utf8');
}
