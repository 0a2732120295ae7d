// Node attributes. They are immutable: to change one, set a new one in `node.attributes`.
import { inputError } from '../../ops/common/errors.js';
import type { AttributeProto } from '../onnx/messages.js';
import type { Graph } from './graph.js';
import type { Node } from './node.js';
import type { Tensor } from './tensor.js';

type Integer = number | bigint;

/** An attribute value. 64-bit integers are numbers where that is exact, bigints where it is not. */
export type AttributeValue =
  | { readonly type: 'int'; readonly value: Integer }
  | { readonly type: 'float'; readonly value: number }
  | { readonly type: 'string'; readonly value: string }
  | { readonly type: 'ints'; readonly value: readonly Integer[] }
  | { readonly type: 'floats'; readonly value: readonly number[] }
  | { readonly type: 'strings'; readonly value: readonly string[] }
  | { readonly type: 'tensor'; readonly value: Tensor }
  | { readonly type: 'graph'; readonly value: Graph }
  /** Anything else; written back as it was read. */
  | { readonly type: 'opaque'; readonly proto: AttributeProto };

/** An attribute with the message it was read from, if any, which is then what gets written. */
export type Attribute = AttributeValue & { readonly proto?: AttributeProto };

export const int = (value: Integer): Attribute => ({ type: 'int', value });
export const float = (value: number): Attribute => ({ type: 'float', value });
export const string = (value: string): Attribute => ({ type: 'string', value });
export const ints = (value: readonly Integer[]): Attribute => ({ type: 'ints', value });
export const tensor = (value: Tensor): Attribute => ({ type: 'tensor', value });

/** An int attribute, or the default where the node has none. Throws 'input' on another type. */
export function attrInt(node: Node, name: string, fallback: number): number;
export function attrInt(node: Node, name: string, fallback?: number): number | undefined;
export function attrInt(node: Node, name: string, fallback?: number): number | undefined {
  const value = read(node, name, 'int');
  return value === undefined ? fallback : Number(value);
}

/** A float attribute, or the default where the node has none. Throws 'input' on another type. */
export function attrFloat(node: Node, name: string, fallback: number): number;
export function attrFloat(node: Node, name: string, fallback?: number): number | undefined;
export function attrFloat(node: Node, name: string, fallback?: number): number | undefined {
  return read(node, name, 'float') ?? fallback;
}

/** A string attribute, or the default where the node has none. Throws 'input' on another type. */
export function attrString(node: Node, name: string, fallback: string): string;
export function attrString(node: Node, name: string, fallback?: string): string | undefined;
export function attrString(node: Node, name: string, fallback?: string): string | undefined {
  return read(node, name, 'string') ?? fallback;
}

/** An ints attribute, or the default where the node has none. Throws 'input' on another type. */
export function attrInts(node: Node, name: string, fallback: number[]): number[];
export function attrInts(node: Node, name: string, fallback?: number[]): number[] | undefined;
export function attrInts(node: Node, name: string, fallback?: number[]): number[] | undefined {
  return read(node, name, 'ints')?.map(Number) ?? fallback;
}

interface Readable {
  int: Integer;
  float: number;
  string: string;
  ints: readonly Integer[];
}

function read<T extends keyof Readable>(node: Node, name: string, type: T): Readable[T] | undefined {
  const attribute = node.attributes.get(name);
  if (attribute === undefined) return undefined;
  if (attribute.type !== type) {
    throw inputError(
      `node "${node.name}" (${node.opType})`,
      `attribute ${name} is of type ${attribute.type}, expected ${type}`,
    );
  }
  return (attribute as unknown as { value: Readable[T] }).value;
}
