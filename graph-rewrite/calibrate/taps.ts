/** Reductions added to a graph, so that a run hands out sums per channel instead of activations. */
import { int, ints, tensor } from '../ir/attributes.js';
import type { Attribute } from '../ir/attributes.js';
import type { Graph } from '../ir/graph.js';
import type { Model } from '../ir/model.js';
import type { Node } from '../ir/node.js';
import { tensorOf } from '../ir/tensor.js';
import type { Value } from '../ir/value.js';

/** Output names of the reductions of one value. */
export interface Tap {
  readonly value: Value;
  readonly channels: number;
  readonly squares: string;
  readonly magnitudes: string;
  readonly absMax: string;
  /** Shape [rows, channels]. */
  readonly shape: string;
}

/** The reductions in a model, until `remove` restores it as it was. */
export interface Taps {
  readonly taps: readonly Tap[];
  readonly remove: () => void;
}

/**
 * Adds Σx², Σ|x| and max|x| over all rows of each value as graph outputs:
 *
 *     x ─ Reshape [rows, K] ─ Cast float ─┬─ Mul (x·x) ─ ReduceSum
 *                                         ├─ Abs ─┬─ ReduceSum
 *                                         │       └─ ReduceMax
 *                                         └─ Shape
 *
 * Not ReduceSumSquare: ONNX Runtime has a fast path for sums over rows, and none for that.
 */
export function addTaps(model: Model, inputs: readonly { readonly input: Value; readonly K: number }[]): Taps {
  const builder = new TapBuilder(model);
  const taps = inputs.map(({ input, K }) => builder.tap(input, K));
  return { taps, remove: () => builder.remove() };
}

class TapBuilder {
  readonly #graph: Graph;
  readonly #opset: number;
  readonly #nodes: Node[] = [];
  readonly #outputs: Value[] = [];

  constructor(model: Model) {
    this.#graph = model.graph;
    this.#opset = model.opsetImports.get('') ?? model.opsetImports.get('ai.onnx') ?? 1;
  }

  tap(value: Value, channels: number): Tap {
    const name = `${value.name}/calibrate`;
    const rows = this.#add('Reshape', name, [value, this.#integers([-1, channels])]);
    const floats = value.dtype === 'float32' ? rows : this.#add('Cast', name, [rows], { to: int(1) });
    const squares = this.#add('Mul', name, [floats, floats]);
    const magnitudes = this.#add('Abs', name, [floats]);
    return {
      value,
      channels,
      squares: this.#output(this.#reduce('ReduceSum', name, squares), 'float32', [channels]),
      magnitudes: this.#output(this.#reduce('ReduceSum', name, magnitudes), 'float32', [channels]),
      absMax: this.#output(this.#reduce('ReduceMax', name, magnitudes), 'float32', [channels]),
      shape: this.#output(this.#add('Shape', name, [floats]), 'int64', [2]),
    };
  }

  /** Axes are an input from opset 13 (ReduceSum) or 18 (ReduceMax) on, before that an attribute. */
  #reduce(opType: 'ReduceSum' | 'ReduceMax', name: string, value: Value): Value {
    const keepdims = int(0);
    const asInput = this.#opset >= (opType === 'ReduceSum' ? 13 : 18);
    if (asInput) return this.#add(opType, name, [value, this.#integers([0])], { keepdims });
    return this.#add(opType, name, [value], { keepdims, axes: ints([0]) });
  }

  #integers(values: number[]): Value {
    return this.#add('Constant', 'calibrate', [], { value: tensor(tensorOf(values)) });
  }

  #add(opType: string, name: string, inputs: readonly Value[], attributes: Record<string, Attribute> = {}): Value {
    const node = this.#graph.addNode({
      opType,
      name: `${name}/${opType}`,
      inputs,
      outputs: [`${name}/${opType}`],
      attributes,
    });
    this.#nodes.push(node);
    return node.output(0)!;
  }

  #output(value: Value, dtype: 'float32' | 'int64', shape: readonly number[]): string {
    value.dtype = dtype;
    value.shape = shape;
    this.#graph.addOutput(value);
    this.#outputs.push(value);
    return value.name;
  }

  remove(): void {
    for (const value of this.#outputs) {
      value.isGraphOutput = false;
      this.#graph.outputs.splice(this.#graph.outputs.indexOf(value), 1);
    }
    for (const node of this.#nodes.reverse()) this.#graph.removeNode(node);
  }
}
