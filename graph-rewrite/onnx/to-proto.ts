// Model → messages. What was read and not changed goes out as the message it came from; the rest is cloned and changed, or new.
import type { Attribute } from '../ir/attributes.js';
import type { Graph } from '../ir/graph.js';
import type { Model } from '../ir/model.js';
import type { Node } from '../ir/node.js';
import type { Tensor } from '../ir/tensor.js';
import type { Value } from '../ir/value.js';
import { dtypeToOnnx } from './dtype.js';
import { isExternal } from './external-data.js';
import { declaredType } from './graph-from-proto.js';
import { fromInt64, toInt64 } from './int64.js';
import {
  cloneMessage,
  type AttributeProto,
  type EntryProto,
  type GraphProto,
  type Message,
  type ModelProto,
  type NodeProto,
  type OpsetProto,
  type TensorProto,
  type ValueInfoProto,
} from './messages.js';
import { dataFieldsRemoved } from './typed-data.js';

/**
 * The messages of a model. Initializers come without data: `data` says where each gets it from. Tensors elsewhere (attributes,
 * functions, sparse initializers) are as they were read.
 */
export interface ProtoWithData {
  model: ModelProto;
  data: Map<Message, Tensor>;
}

/** Sorts the graphs of the model on the way: a file must be in topological order. */
export function toProto(model: Model): ProtoWithData {
  const data = new Map<Message, Tensor>();
  const source = model.source ?? {};
  const proto = cloneMessage(source, {
    graph: graphToProto(model.graph, data),
    opsetImport: opsets(model),
    metadataProps: entries(source.metadataProps ?? [], model.metadata),
  });
  if (model.irVersion !== 0) proto.irVersion = toInt64(model.irVersion);
  if (model.producerName !== (source.producerName ?? '')) proto.producerName = model.producerName;
  if (model.producerVersion !== (source.producerVersion ?? '')) proto.producerVersion = model.producerVersion;
  return { model: proto, data };
}

function graphToProto(graph: Graph, data: Map<Message, Tensor>): GraphProto {
  graph.sort();
  const source = graph.source ?? {};
  const initializers: TensorProto[] = [];
  for (const value of graph.initializers()) {
    const tensor = value.initializer!;
    const proto = tensorToProto(value.name, tensor);
    data.set(proto, tensor);
    initializers.push(proto);
  }
  return cloneMessage(source, {
    ...(graph.source ? {} : { name: graph.name }),
    node: graph.nodes.map((node) => nodeToProto(node, data)),
    initializer: initializers,
    input: infos(graph.inputs, source.input),
    output: infos(graph.outputs, source.output),
    valueInfo: valueInfos(graph, source.valueInfo ?? []),
  });
}

/** Always a new message: the writer fills in the data. */
function tensorToProto(name: string, tensor: Tensor): TensorProto {
  if (tensor.source) return cloneMessage(tensor.source, { name });
  return { name, dims: tensor.dims.map(toInt64), dataType: dtypeToOnnx(tensor.dtype) };
}

/** The message with its data inside: as it was read if it was inside then. */
export function withData(proto: TensorProto, tensor: Tensor): TensorProto {
  if (tensor.source && !isExternal(tensor)) return proto;
  return cloneMessage(proto, { ...dataFieldsRemoved(proto), rawData: tensor.bytes() });
}

function nodeToProto(node: Node, data: Map<Message, Tensor>): NodeProto {
  const source = node.source ?? {};
  const proto = cloneMessage(source, {
    input: node.inputs.map((value) => value?.name ?? ''),
    output: node.outputs.map((value) => value?.name ?? ''),
    attribute: [...node.attributes].map(([name, attribute]) => attributeToProto(name, attribute, data)),
    metadataProps: entries(source.metadataProps ?? [], node.metadata),
  });
  if (!node.source) {
    proto.opType = node.opType;
    proto.name = node.name;
    if (node.domain !== '') proto.domain = node.domain;
  }
  return proto;
}

function attributeToProto(name: string, attribute: Attribute, data: Map<Message, Tensor>): AttributeProto {
  if (attribute.type === 'graph') {
    const g = graphToProto(attribute.value, data);
    return attribute.proto ? cloneMessage(attribute.proto, { g }) : { name, type: 5, g };
  }
  if (attribute.proto) return attribute.proto;
  switch (attribute.type) {
    case 'float':
      return { name, type: 1, f: attribute.value };
    case 'int':
      return { name, type: 2, i: toInt64(attribute.value) };
    case 'string':
      return { name, type: 3, s: Buffer.from(attribute.value) };
    case 'tensor':
      return { name, type: 4, t: withData(tensorToProto(name, attribute.value), attribute.value) };
    case 'floats':
      return { name, type: 6, floats: [...attribute.value] };
    case 'ints':
      return { name, type: 7, ints: attribute.value.map(toInt64) };
    case 'strings':
      return { name, type: 8, strings: attribute.value.map((text) => Buffer.from(text)) };
    case 'opaque':
      return attribute.proto;
  }
}

/** Declarations of graph inputs or outputs. */
function infos(values: readonly Value[], source: readonly ValueInfoProto[] = []): ValueInfoProto[] {
  const byName = new Map(source.map((info) => [info.name ?? '', info]));
  return values.map((value) => infoFor(value, byName.get(value.name)));
}

/** Declarations of inner values: those read, without the ones of removed values, and those set on new values. */
function valueInfos(graph: Graph, source: readonly ValueInfoProto[]): ValueInfoProto[] {
  const declared = new Set(source.map((info) => info.name ?? ''));
  const defined = new Set((graph.source?.node ?? []).flatMap((node) => node.output ?? []));
  const kept = source.flatMap((info) => {
    const name = info.name ?? '';
    const value = graph.ownValue(name);
    if (value) return [infoFor(value, info)];
    return defined.has(name) ? [] : [info];
  });
  const added = [...graph.values()].filter(
    (value) =>
      value.producer &&
      value.dtype &&
      value.shape &&
      !value.isGraphOutput &&
      !declared.has(value.name) &&
      !defined.has(value.name),
  );
  return [...kept, ...added.map((value) => infoFor(value, undefined))];
}

function infoFor(value: Value, source: ValueInfoProto | undefined): ValueInfoProto {
  if (source) {
    const { dtype, shape } = declaredType(source);
    const unchanged =
      (dtype === undefined || dtype === value.dtype) &&
      (value.initializer || !shape || JSON.stringify(shape) === JSON.stringify(value.shape ?? null));
    if (unchanged) return source;
  }
  const tensorType = {
    ...(value.dtype ? { elemType: dtypeToOnnx(value.dtype) } : {}),
    ...(value.shape
      ? {
          shape: {
            dim: value.shape.map((dim) =>
              typeof dim === 'number' ? { dimValue: toInt64(dim) } : dim === undefined ? {} : { dimParam: dim },
            ),
          },
        }
      : {}),
  };
  // Without an element type there is nothing to declare: runtimes infer it, and refuse type 0.
  if (!value.dtype && !source) return { name: value.name };
  return cloneMessage(source ?? {}, { name: value.name, type: cloneMessage(source?.type ?? {}, { tensorType }) });
}

function entries(source: readonly EntryProto[], map: ReadonlyMap<string, string>): EntryProto[] {
  const known = new Set(source.map((entry) => entry.key ?? ''));
  const last = new Map(source.map((entry) => [entry.key ?? '', entry.value ?? '']));
  const kept = source.flatMap((entry) => {
    const value = map.get(entry.key ?? '');
    if (value === undefined) return [];
    return [value === last.get(entry.key ?? '') ? entry : cloneMessage(entry, { value })];
  });
  return [...kept, ...[...map].filter(([key]) => !known.has(key)).map(([key, value]) => ({ key, value }))];
}

function opsets(model: Model): OpsetProto[] {
  const source = model.source?.opsetImport ?? [];
  const domainOf = (entry: OpsetProto) => (entry.domain === 'ai.onnx' ? '' : (entry.domain ?? ''));
  const kept = source.flatMap((entry) => {
    const version = model.opsetImports.get(domainOf(entry));
    if (version === undefined) return [];
    const unchanged = entry.version && Number(fromInt64(entry.version)) === version;
    return [unchanged ? entry : cloneMessage(entry, { version: toInt64(version) })];
  });
  const known = new Set(source.map(domainOf));
  const added = [...model.opsetImports].filter(([domain]) => !known.has(domain));
  return [...kept, ...added.map(([domain, version]) => ({ domain, version: toInt64(version) }))];
}
