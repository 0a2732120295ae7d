import { internalError, usageError } from './common/errors.js';

/** Every operator of this project lives in this ONNX domain. */
export const domain = 'lowbit';

/**
 * Element type of a port. `T` is the graph's float type (float32 or float16), the same for every port of a node; `a|b` means
 * that a node has one of the two.
 */
export type PortType = 'T' | 'int8|T' | 'uint8|int8' | 'float32' | 'float16' | 'int8' | 'uint8' | 'int32';

/** One input or output. */
export interface PortSpec {
  readonly type: PortType;
  /** May be skipped: an empty name in the node, or left out at the end. */
  readonly optional?: true;
  /** Shape in words of the attributes, e.g. `[..., K]`. */
  readonly dims: string;
  readonly about: string;
}

/** One attribute. Without a default it is required. */
export type AttributeSpec =
  | { readonly type: 'int' | 'float'; readonly default?: number; readonly about: string }
  | {
      readonly type: 'string';
      readonly default?: string;
      readonly oneOf: readonly [string, ...string[]];
      readonly about: string;
    };

/** What an operator is: the TypeScript side of a contract that the native library repeats in `OrtLowbitDescribe`. */
export interface OpSpec<
  I extends Record<string, PortSpec>,
  O extends Record<string, PortSpec>,
  A extends Record<string, AttributeSpec>,
> {
  readonly type: string;
  readonly since: number;
  readonly about: string;
  readonly inputs: I;
  readonly outputs: O;
  readonly attributes: A;
  /** Rules over attributes and shapes that the types do not say. */
  readonly requires: readonly string[];
}

type RequiredKeys<R> = { [K in keyof R]: R[K] extends { readonly optional: true } ? never : K }[keyof R];
type Given<R, V> = { readonly [K in RequiredKeys<R>]: V } & { readonly [K in keyof R]?: V | undefined };
type AttributeValue<S> = S extends { readonly oneOf: readonly (infer Word)[] } ? Word : number;
type RequiredAttributes<A> = {
  [K in keyof A]: A[K] extends { readonly default: number | string } ? never : K;
}[keyof A];
type Attributes<A> = { readonly [K in RequiredAttributes<A>]: AttributeValue<A[K]> } & {
  readonly [K in keyof A]?: AttributeValue<A[K]> | undefined;
};

/** An attribute in the shape the graph IR stores it. */
export type NodeAttribute =
  { type: 'int'; value: number } | { type: 'float'; value: number } | { type: 'string'; value: string };

/** Everything a graph needs to add a node, in the order the operator defines. */
export interface NodeParts<V> {
  readonly opType: string;
  readonly domain: string;
  /** In order; skipped ones are undefined, none at the end. */
  readonly inputs: (V | undefined)[];
  readonly attributes: Map<string, NodeAttribute>;
}

/** A port or an attribute as `OrtLowbitDescribe` prints it. */
export interface OpDescription {
  readonly type: string;
  readonly since: number;
  readonly inputs: readonly { name: string; type: string; optional: boolean }[];
  readonly outputs: readonly { name: string; type: string; optional: boolean }[];
  readonly attributes: readonly { name: string; type: string; default?: number | string }[];
}

/** A contract with what follows from it. */
export interface OpContract<
  I extends Record<string, PortSpec> = Record<string, PortSpec>,
  O extends Record<string, PortSpec> = Record<string, PortSpec>,
  A extends Record<string, AttributeSpec> = Record<string, AttributeSpec>,
> extends OpSpec<I, O, A> {
  readonly domain: typeof domain;
  readonly inputNames: readonly (keyof I & string)[];
  readonly outputNames: readonly (keyof O & string)[];
  /** The parts of a node, inputs and attributes given by name. Refuses missing required ones and illegal words. */
  node<V>(inputs: Given<I, V>, attributes: Attributes<A>): NodeParts<V>;
  /** The contract as the native library describes it; a test compares the two. */
  describe(): OpDescription;
}

function describePorts(ports: Record<string, PortSpec>): { name: string; type: string; optional: boolean }[] {
  return Object.entries(ports).map(([name, port]) => ({ name, type: port.type, optional: port.optional === true }));
}

function toAttribute(op: string, name: string, spec: AttributeSpec, value: unknown): NodeAttribute {
  if (spec.type === 'string') {
    if (typeof value !== 'string' || !spec.oneOf.includes(value)) {
      throw usageError(op, `attribute ${name} is ${JSON.stringify(value)}, expected one of ${spec.oneOf.join(', ')}`);
    }
    return { type: 'string', value };
  }
  if (typeof value !== 'number' || (spec.type === 'int' && !Number.isSafeInteger(value))) {
    throw usageError(op, `attribute ${name} is ${JSON.stringify(value)}, expected ${spec.type}`);
  }
  return { type: spec.type, value };
}

/** Makes a contract out of its description. */
export function defineOp<
  const I extends Record<string, PortSpec>,
  const O extends Record<string, PortSpec>,
  const A extends Record<string, AttributeSpec>,
>(spec: OpSpec<I, O, A>): OpContract<I, O, A> {
  const inputNames = Object.keys(spec.inputs);
  return {
    ...spec,
    domain,
    inputNames,
    outputNames: Object.keys(spec.outputs),
    node<V>(inputs: Given<I, V>, attributes: Attributes<A>): NodeParts<V> {
      const given = inputs as Readonly<Record<string, V | undefined>>;
      const values = inputNames.map((name) => given[name]);
      inputNames.forEach((name, i) => {
        if (values[i] === undefined && !spec.inputs[name]!.optional) {
          throw internalError(spec.type, `input ${name} is missing, expected a value`);
        }
      });
      while (values.length > 0 && values.at(-1) === undefined) values.pop();
      const map = new Map<string, NodeAttribute>();
      for (const [name, attribute] of Object.entries(spec.attributes)) {
        const value = (attributes as Readonly<Record<string, unknown>>)[name] ?? attribute.default;
        map.set(name, toAttribute(spec.type, name, attribute, value));
      }
      return { opType: spec.type, domain, inputs: values, attributes: map };
    },
    describe() {
      return {
        type: spec.type,
        since: spec.since,
        inputs: describePorts(spec.inputs),
        outputs: describePorts(spec.outputs),
        attributes: Object.entries(spec.attributes).map(([name, attribute]) => ({
          name,
          type: attribute.type,
          ...(attribute.default === undefined ? {} : { default: attribute.default }),
        })),
      };
    },
  };
}
