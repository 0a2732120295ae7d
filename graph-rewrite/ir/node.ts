// A node and its edges.
import type { NodeProto } from '../onnx/messages.js';
import type { Graph } from './graph.js';
import type { Attribute } from './attributes.js';
import type { Value } from './value.js';

export interface NodeSpec {
  opType: string;
  /** '' (the default) is ai.onnx. */
  domain?: string;
  /** Made unique; the op type is the default. */
  name?: string;
  /** undefined is a skipped optional input. */
  inputs: readonly (Value | undefined)[];
  /** Names wanted for the outputs, made unique; undefined is a skipped optional output. */
  outputs: readonly (string | undefined)[];
  attributes?: ReadonlyMap<string, Attribute> | Readonly<Record<string, Attribute>>;
  metadata?: ReadonlyMap<string, string> | Readonly<Record<string, string>>;
}

export class Node {
  readonly graph: Graph;
  readonly opType: string;
  /** '' for ai.onnx. */
  readonly domain: string;
  readonly name: string;
  readonly attributes: Map<string, Attribute>;
  readonly metadata: Map<string, string>;
  /** The message it was read from; what we do not model is written back from there. */
  readonly source: NodeProto | undefined;
  #inputs: (Value | undefined)[];
  #outputs: (Value | undefined)[];

  /** Use `Graph.addNode`: it keeps names and edges consistent. */
  constructor(
    graph: Graph,
    fields: Pick<Node, 'opType' | 'domain' | 'name' | 'attributes' | 'metadata'>,
    inputs: readonly (Value | undefined)[],
    outputs: readonly (Value | undefined)[],
    source?: NodeProto,
  ) {
    this.graph = graph;
    this.opType = fields.opType;
    this.domain = fields.domain;
    this.name = fields.name;
    this.attributes = fields.attributes;
    this.metadata = fields.metadata;
    this.source = source;
    this.#inputs = [...inputs];
    this.#outputs = [...outputs];
    this.#inputs.forEach((value, index) => value?.edges.addUse({ node: this, index }));
    for (const value of this.#outputs) value?.edges.produce(this);
  }

  get inputs(): readonly (Value | undefined)[] {
    return this.#inputs;
  }

  get outputs(): readonly (Value | undefined)[] {
    return this.#outputs;
  }

  input(index: number): Value | undefined {
    return this.#inputs[index];
  }

  output(index: number): Value | undefined {
    return this.#outputs[index];
  }

  is(opType: string, domain = ''): boolean {
    return this.opType === opType && this.domain === domain;
  }

  /** Connects one input to another value; undefined skips it. */
  setInput(index: number, value: Value | undefined): void {
    this.#inputs[index]?.edges.removeUse(this, index);
    while (this.#inputs.length < index) this.#inputs.push(undefined);
    this.#inputs[index] = value;
    value?.edges.addUse({ node: this, index });
  }

  /** Gives the node one more output, a value of its graph. */
  appendOutput(value: Value): void {
    this.#outputs.push(value);
    value.edges.produce(this);
  }

  /** Takes the last output away; for Graph, which knows that nothing uses it. */
  popOutput(): void {
    this.#outputs.pop();
  }

  /** The graphs in its attributes (If, Loop, Scan). */
  *subgraphs(): Iterable<Graph> {
    for (const attribute of this.attributes.values()) if (attribute.type === 'graph') yield attribute.value;
  }

  /** Takes the node's edges away; for Graph, when it removes the node. */
  disconnect(): void {
    this.#inputs.forEach((value, index) => value?.edges.removeUse(this, index));
    for (const graph of this.subgraphs()) for (const node of graph.nodes) node.disconnect();
  }
}
