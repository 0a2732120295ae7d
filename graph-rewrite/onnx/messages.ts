// The decoded form of the messages in schema.ts. Messages are treated as immutable: edits clone (`cloneMessage`).
import protobuf from 'protobufjs';

import { onnxSchema } from './schema.js';

/** A 64-bit integer as protobufjs decodes it: two 32-bit halves. */
export interface Int64 {
  low: number;
  high: number;
  unsigned: boolean;
}

/** What every message has: the fields our schema does not know, each with its tag, in the order read. */
export interface Message {
  $unknowns?: Uint8Array[];
}

export interface EntryProto extends Message {
  key?: string;
  value?: string;
}

export interface TensorProto extends Message {
  name?: string;
  dims?: Int64[];
  dataType?: number;
  /** Packed payload in the encoding of the wire, possibly in several pieces. */
  floatData?: Uint8Array[];
  int32Data?: Uint8Array[];
  int64Data?: Uint8Array[];
  doubleData?: Uint8Array[];
  uint64Data?: Uint8Array[];
  stringData?: Uint8Array[];
  rawData?: Uint8Array;
  externalData?: EntryProto[];
  /** 1: the data is in the file that externalData names. */
  dataLocation?: number;
}

export interface SparseTensorProto extends Message {
  values?: TensorProto;
  indices?: TensorProto;
  dims?: Int64[];
}

export interface AttributeProto extends Message {
  name?: string;
  type?: number;
  f?: number;
  i?: Int64;
  s?: Uint8Array;
  t?: TensorProto;
  g?: GraphProto;
  floats?: number[];
  ints?: Int64[];
  strings?: Uint8Array[];
  tensors?: TensorProto[];
  graphs?: GraphProto[];
  refAttrName?: string;
}

export interface NodeProto extends Message {
  input?: string[];
  output?: string[];
  name?: string;
  opType?: string;
  domain?: string;
  overload?: string;
  attribute?: AttributeProto[];
  metadataProps?: EntryProto[];
}

export interface DimensionProto extends Message {
  dimValue?: Int64;
  dimParam?: string;
}

export interface TypeProto extends Message {
  tensorType?: { elemType?: number; shape?: { dim?: DimensionProto[] } & Message } & Message;
}

export interface ValueInfoProto extends Message {
  name?: string;
  type?: TypeProto;
}

export interface GraphProto extends Message {
  name?: string;
  node?: NodeProto[];
  initializer?: TensorProto[];
  sparseInitializer?: SparseTensorProto[];
  input?: ValueInfoProto[];
  output?: ValueInfoProto[];
  valueInfo?: ValueInfoProto[];
}

export interface OpsetProto extends Message {
  domain?: string;
  version?: Int64;
}

export interface FunctionProto extends Message {
  name?: string;
  domain?: string;
  overload?: string;
  node?: NodeProto[];
}

export interface ModelProto extends Message {
  irVersion?: Int64;
  producerName?: string;
  producerVersion?: string;
  domain?: string;
  modelVersion?: Int64;
  docString?: string;
  graph?: GraphProto;
  opsetImport?: OpsetProto[];
  metadataProps?: EntryProto[];
  functions?: FunctionProto[];
}

const root = protobuf.parse(onnxSchema).root.resolveAll();
const modelType = root.lookupType('onnx.ModelProto');
const tensorType = root.lookupType('onnx.TensorProto');
removeDefaults(root.lookup('onnx') as protobuf.Namespace);

/** protobufjs puts defaults on prototypes; without them an absent field is undefined, as the types above say. */
function removeDefaults(namespace: protobuf.Namespace): void {
  for (const type of namespace.nestedArray) {
    if (!(type instanceof protobuf.Type)) continue;
    for (const field of type.fieldsArray) Reflect.deleteProperty(type.ctor.prototype as object, field.name);
  }
}

/**
 * Decodes a model; `bytes` fields are views on `buffer`, unknown fields are kept.
 * @throws whatever protobufjs throws on bytes that are no such message
 */
export function decodeModel(buffer: Buffer): ModelProto {
  const reader = protobuf.Reader.create(buffer);
  reader.discardUnknown = false;
  return modelType.decode(reader) as ModelProto;
}

/** Encodes a model, unknown fields included (behind the known ones of their message). */
export function encodeModel(model: ModelProto): Uint8Array {
  return modelType.encode(model as protobuf.Message).finish();
}

/** A shallow copy that keeps unknown fields and the message type; `changes` replace fields, `undefined` removes one. */
export function cloneMessage<T extends Message>(message: T, changes: { [K in keyof T]?: T[K] | undefined } = {}): T {
  const copy = Object.assign(Object.create(Object.getPrototypeOf(message) as object) as T, message);
  if (message.$unknowns) copy.$unknowns = message.$unknowns;
  for (const key of Object.keys(changes) as (keyof T)[]) {
    const value = changes[key];
    if (value === undefined) Reflect.deleteProperty(copy, key);
    else copy[key] = value;
  }
  return copy;
}

/** Whether a message was read as a TensorProto. */
export function isDecodedTensor(message: Message): message is TensorProto {
  return (message as { $type?: protobuf.Type }).$type === tensorType;
}

/**
 * Walks a message and everything below. A message that `replace` answers for is not entered; where it answers with another object,
 * that takes its place in copies of the messages around it.
 */
export function mapMessages<T extends Message>(message: T, replace: (message: Message) => Message | undefined): T {
  const replaced = replace(message);
  if (replaced) return replaced as T;
  const changes: Record<string, unknown> = {};
  for (const [key, value] of Object.entries(message)) {
    if (Array.isArray(value)) {
      if (!isMessage(value[0])) continue;
      const items = value as Message[];
      const mapped = items.map((item) => mapMessages(item, replace));
      if (mapped.some((item, index) => item !== items[index])) changes[key] = mapped;
    } else if (isMessage(value)) {
      const mapped = mapMessages(value, replace);
      if (mapped !== value) changes[key] = mapped;
    }
  }
  return Object.keys(changes).length ? cloneMessage(message, changes as { [K in keyof T]?: T[K] }) : message;
}

function isMessage(value: unknown): value is Message {
  return typeof value === 'object' && value !== null && !ArrayBuffer.isView(value) && !('low' in value);
}
