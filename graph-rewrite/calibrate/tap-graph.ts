/** Nodes and outputs that are added to a graph for a while, so that a run hands out sums instead of activations. */
import { int, ints, tensor } from '../ir/attributes.js';
import type { Attribute } from '../ir/attributes.js';
import type { DType } from '../onnx/dtype.js';
import type { Graph } from '../ir/graph.js';
import { hoist } from '../ir/hoist.js';
import type { Model } from '../ir/model.js';
import type { Node } from '../ir/node.js';
import { tensorOf } from '../ir/tensor.js';
import type { Dim, Value } from '../ir/value.js';

export class TapGraph {
  readonly #graph: Graph;
  readonly #opset: number;
  readonly #nodes: Node[] = [];
  readonly #outputs: Value[] = [];
  readonly #hoists: (() => void)[] = [];

  constructor(model: Model) {
    this.#graph = model.graph;
    this.#opset = model.opsetImports.get('') ?? model.opsetImports.get('ai.onnx') ?? 1;
  }

  /** The rows of a value, float32 [rows, channels]. */
  rows(name: string, value: Value, channels: number): Value {
    const rows = this.add('Reshape', name, [value, this.#integers([-1, channels])]);
    return value.dtype === 'float32' ? rows : this.add('Cast', name, [rows], { to: int(1) });
  }

  /** Over all rows. Axes are an input from opset 13 (ReduceSum) or 18 (the others) on, before that an attribute. */
  reduce(opType: 'ReduceSum' | 'ReduceMin' | 'ReduceMax', name: string, value: Value): Value {
    const keepdims = int(0);
    const asInput = this.#opset >= (opType === 'ReduceSum' ? 13 : 18);
    if (asInput) return this.add(opType, name, [value, this.#integers([0])], { keepdims });
    return this.add(opType, name, [value], { keepdims, axes: ints([0]) });
  }

  /** Every `step`-th row, counted from the last one, so that there is at least one. Steps need opset 10; before, the last row alone. */
  everyRow(step: number, name: string, rows: Value): Value {
    const [start, end] = [-1, -(2 ** 31)];
    if (this.#opset < 10)
      return this.add('Slice', name, [rows], { axes: ints([0]), starts: ints([start]), ends: ints([2 ** 31 - 1]) });
    const bounds = [[start], [end], [0], [-step]].map((each) => this.#integers(each));
    return this.add('Slice', name, [rows, ...bounds]);
  }

  /** A node in the graph of its first input. */
  add(opType: string, name: string, inputs: readonly Value[], attributes: Record<string, Attribute> = {}): Value {
    const graph = inputs[0]?.graph ?? this.#graph;
    const spec = { opType, name: `${name}/${opType}`, inputs, outputs: [`${name}/${opType}`] };
    const node = graph.addNode({ ...spec, attributes });
    this.#nodes.push(node);
    return node.output(0)!;
  }

  /** Makes a value a graph output; returns its name. Of a branch of an If that does not run it is empty. */
  output(value: Value, dtype: DType, shape: readonly Dim[]): string {
    const { value: outer, undo } = hoist(value, dtype, shape.length);
    this.#hoists.push(undo);
    outer.dtype = dtype;
    outer.shape = outer === value ? shape : shape.map(() => undefined);
    this.#graph.addOutput(outer);
    this.#outputs.push(outer);
    return outer.name;
  }

  /** Restores the graph as it was. */
  remove(): void {
    for (const value of this.#outputs) this.#graph.removeOutput(value);
    for (const undo of this.#hoists.reverse()) undo();
    for (const node of this.#nodes.reverse()) node.graph.removeNode(node);
  }

  #integers(values: number[]): Value {
    return this.add('Constant', 'calibrate', [], { value: tensor(tensorOf(values)) });
  }
}
