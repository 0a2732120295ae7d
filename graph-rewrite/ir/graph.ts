// A graph: nodes in topological order, values by identity, and the edits that keep both consistent.
import { internalError } from '../../ops/common/errors.js';
import type { GraphProto } from '../onnx/messages.js';
import type { Attribute } from './attributes.js';
import type { Model } from './model.js';
import { Node, type NodeSpec } from './node.js';
import { sortNodes } from './sort.js';
import type { Tensor } from './tensor.js';
import { Value } from './value.js';

export class Graph {
  readonly model: Model;
  readonly name: string;
  /** The graph around a subgraph. */
  readonly parent: Graph | undefined;
  /** The message it was read from; what we do not model is written back from there. */
  readonly source: GraphProto | undefined;
  readonly inputs: Value[] = [];
  readonly outputs: Value[] = [];
  nodes: Node[] = [];
  readonly #values = new Map<string, Value>();
  readonly #initializers = new Set<Value>();

  constructor(model: Model, name: string, parent?: Graph, source?: GraphProto) {
    this.model = model;
    this.name = name;
    this.parent = parent;
    this.source = source;
  }

  /** Where it is, for errors: the file, if there is one, and the name. */
  get at(): string {
    const { path } = this.model;
    return `${path === undefined ? '' : `${path}: `}graph "${this.name}"`;
  }

  /** Values with constant data, in file order. */
  initializers(): Iterable<Value> {
    return this.#initializers;
  }

  /** The values of this graph itself, without those of outer graphs. */
  values(): Iterable<Value> {
    return this.#values.values();
  }

  /** A value by name, looked up here and then in the graphs around. */
  value(name: string): Value | undefined {
    return this.#values.get(name) ?? this.parent?.value(name);
  }

  /** A value of this graph itself, without those of outer graphs. */
  ownValue(name: string): Value | undefined {
    return this.#values.get(name);
  }

  /** Makes a value under exactly this name; for readers and builders, which know that it is free. */
  createValue(name: string): Value {
    const value = new Value(this, name);
    this.#values.set(name, value);
    this.model.names.take(name);
    return value;
  }

  /** Appends a node that was read from a file; its values exist already. */
  attachNode(node: Node): void {
    this.nodes.push(node);
    this.model.nodeNames.take(node.name);
  }

  /** Declares a graph input. */
  addInput(name: string, dtype: Value['dtype'], shape: NonNullable<Value['shape']>): Value {
    const value = this.createValue(this.model.names.unique(name));
    value.isGraphInput = true;
    if (dtype) value.dtype = dtype;
    value.shape = shape;
    this.inputs.push(value);
    return value;
  }

  /** Declares a value of this graph as graph output. Callers see its name. */
  addOutput(value: Value): void {
    value.isGraphOutput = true;
    this.outputs.push(value);
  }

  /** Takes a value out of the graph's outputs. */
  removeOutput(value: Value): void {
    value.isGraphOutput = false;
    this.outputs.splice(this.outputs.indexOf(value), 1);
  }

  /** Takes the last output of a node away, which nothing uses. */
  dropOutput(node: Node, value: Value): void {
    if (node.outputs.at(-1) !== value || value.uses.length > 0 || value.isGraphOutput)
      throw internalError(`node "${node.name}" (${node.opType})`, `"${value.name}" is in use, or not its last output`);
    node.popOutput();
    this.#dropValue(value);
  }

  /** Adds a constant; the name is made unique. */
  addInitializer(name: string, tensor: Tensor): Value {
    const value = this.createValue(this.model.names.unique(name));
    value.initializer = tensor;
    return value;
  }

  /**
   * Adds a node with fresh output values, in front of `before` or at the end. Names are made unique over all graphs of the model.
   * The order of nodes is restored by `sort` (saving does that too).
   */
  addNode(spec: NodeSpec, options: { before?: Node } = {}): Node {
    const outputs = spec.outputs.map((name) =>
      name === undefined ? undefined : this.createValue(this.model.names.unique(name)),
    );
    const fields = {
      opType: spec.opType,
      domain: spec.domain ?? '',
      name: this.model.nodeNames.unique(spec.name ?? spec.opType),
      attributes: toMap<Attribute>(spec.attributes),
      metadata: toMap<string>(spec.metadata),
    };
    const node = new Node(this, fields, spec.inputs, outputs);
    const position = options.before ? this.nodes.indexOf(options.before) : this.nodes.length;
    if (position < 0) throw internalError(`graph ${this.name}`, `node "${options.before?.name}" is not in it`);
    this.nodes.splice(position, 0, node);
    this.model.nodeNames.take(fields.name);
    return node;
  }

  /**
   * Makes every user of `from`, in subgraphs too, use `to`. Where `from` is a graph output, `to` takes over its name and declared
   * type; if it cannot (an input, a constant, an output itself), an Identity node in between does.
   */
  replaceAllUses(from: Value, to: Value): void {
    if (from === to) return;
    for (const { node, index } of [...from.uses]) if (node !== to.producer) node.setInput(index, to);
    if (!from.isGraphOutput) return;
    for (const graph of this.model.walkGraphs()) {
      graph.outputs.forEach((output, index) => {
        if (output === from) graph.#replaceOutput(index, from, to);
      });
    }
    from.isGraphOutput = false;
  }

  #replaceOutput(index: number, from: Value, to: Value): void {
    let output = to;
    if (to.graph !== this || !to.producer || to.isGraphOutput) {
      output = this.addNode({
        opType: 'Identity',
        name: `${from.name}/Identity`,
        inputs: [to],
        outputs: [from.name],
      }).output(0)!;
    }
    this.swapNames(from, output);
    if (from.dtype) output.dtype = from.dtype;
    if (from.shape) output.shape = from.shape;
    output.isGraphOutput = true;
    this.outputs[index] = output;
  }

  /** Exchanges the names of a value and of one of this graph: what takes the place of another may take its name as well. */
  swapNames(a: Value, b: Value): void {
    const [nameOfA, nameOfB] = [a.name, b.name];
    a.edges.rename(nameOfB);
    b.edges.rename(nameOfA);
    if (a.graph.ownValue(nameOfA) === a) a.graph.#values.delete(nameOfA);
    a.graph.#values.set(nameOfB, a);
    this.#values.set(nameOfA, b);
    if (a.graph !== this) this.#values.delete(nameOfB);
  }

  /** Removes a node and its outputs. Throws 'internal' if something still uses them. */
  removeNode(node: Node): void {
    for (const value of node.outputs) {
      if (!value || (value.uses.length === 0 && !value.isGraphOutput)) continue;
      const users = value.uses
        .map((use) => `"${use.node.name}"`)
        .concat(value.isGraphOutput ? 'the graph outputs' : []);
      throw internalError(
        `node "${node.name}" (${node.opType})`,
        `cannot be removed, "${value.name}" is used by ${users.join(', ')}`,
      );
    }
    const position = this.nodes.indexOf(node);
    if (position < 0) throw internalError(`node "${node.name}" (${node.opType})`, `is not in graph ${this.name}`);
    this.nodes.splice(position, 1);
    this.#forget(node);
  }

  #forget(node: Node): void {
    node.disconnect();
    this.model.nodeNames.release(node.name);
    for (const value of node.outputs) if (value) this.#dropValue(value);
  }

  #dropValue(value: Value): void {
    value.edges.produce(undefined);
    this.#values.delete(value.name);
    this.#initializers.delete(value);
    this.model.names.release(value.name);
  }

  /** Nodes whose results lead nowhere: {@link prune} would remove them. */
  unusedNodes(): ReadonlySet<Node> {
    const unused = new Set<Node>();
    const isUnused = (value: Value | undefined): boolean =>
      !value || (!value.isGraphOutput && value.uses.every(({ node }) => unused.has(node)));
    const stack = [...this.nodes];
    for (let node = stack.pop(); node; node = stack.pop()) {
      if (unused.has(node) || node.outputs.length === 0 || !node.outputs.every(isUnused)) continue;
      unused.add(node);
      for (const input of node.inputs) if (input?.producer && input.graph === this) stack.push(input.producer);
    }
    return unused;
  }

  /** Removes nodes and initializers that nothing uses, here and in subgraphs; graph inputs and outputs stay. */
  prune(): { nodes: number; initializers: number } {
    const removed = { nodes: 0, initializers: 0 };
    const count = (part: { nodes: number; initializers: number }) => {
      removed.nodes += part.nodes;
      removed.initializers += part.initializers;
    };
    const kept: Node[] = [];
    // Backwards over a topological order: users go before what they use.
    this.sort();
    for (const node of this.nodes.toReversed()) {
      const live = node.outputs.some((value) => value && (value.uses.length > 0 || value.isGraphOutput));
      if (live || node.outputs.length === 0) {
        for (const graph of node.subgraphs()) count(graph.prune());
        kept.push(node);
      } else {
        this.#forget(node);
        removed.nodes++;
      }
    }
    this.nodes = kept.reverse();
    for (const value of this.#initializers) {
      if (value.uses.length > 0 || value.isGraphInput || value.isGraphOutput) continue;
      this.#dropValue(value);
      removed.initializers++;
    }
    return removed;
  }

  /** Puts nodes into topological order, keeping the given order where it already is one. */
  sort(): void {
    this.nodes = sortNodes(this);
  }

  /** For Value: keeps the list of initializers. */
  noteInitializer(value: Value): void {
    if (value.initializer) this.#initializers.add(value);
    else this.#initializers.delete(value);
  }
}

function toMap<T>(entries: ReadonlyMap<string, T> | Readonly<Record<string, T>> | undefined): Map<string, T> {
  return new Map(entries instanceof Map ? (entries as Map<string, T>) : Object.entries(entries ?? {}));
}
