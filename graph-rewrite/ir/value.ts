// A value: one edge bundle of the graph. Identity is the object; the name only matters in the file.
import type { DType } from '../onnx/dtype.js';
import { constantOf } from './constant.js';
import type { Graph } from './graph.js';
import type { Node } from './node.js';
import type { Tensor } from './tensor.js';

export type Dim = number | string | undefined;

export interface Use {
  readonly node: Node;
  /** Which input of the node. */
  readonly index: number;
}

export class Value {
  readonly graph: Graph;
  /** Element type and dims, where the model declares them. Known sizes are numbers, symbolic ones strings. */
  dtype?: DType;
  shape?: readonly Dim[];
  #name: string;
  #producer: Node | undefined;
  #uses: Use[] = [];
  #initializer: Tensor | undefined;
  isGraphInput = false;
  isGraphOutput = false;
  /** Defined by a sparse initializer of the graph, which is carried along but not modelled. */
  isSparseInitializer = false;

  /** Use `Graph` to make values: it keeps names and edges consistent. */
  constructor(graph: Graph, name: string) {
    this.graph = graph;
    this.#name = name;
  }

  get name(): string {
    return this.#name;
  }

  /** The node whose output this is; undefined for inputs and initializers. */
  get producer(): Node | undefined {
    return this.#producer;
  }

  /** Every use as a node input, those in subgraphs included. Being a graph output is not a use: see `isGraphOutput`. */
  get uses(): readonly Use[] {
    return this.#uses;
  }

  get initializer(): Tensor | undefined {
    return this.#initializer;
  }

  /** Sets or replaces the constant; undefined takes it away. */
  set initializer(tensor: Tensor | undefined) {
    this.#initializer = tensor;
    this.graph.noteInitializer(this);
    if (tensor) {
      this.dtype = tensor.dtype;
      this.shape = tensor.dims;
    }
  }

  /** The constant this value is: an initializer that callers cannot override, or a Constant node, also behind Identity nodes. */
  constant(): Tensor | undefined {
    return constantOf(this);
  }

  /** Edge bookkeeping for Graph and Node; nothing else may call it. */
  readonly edges = {
    rename: (name: string): void => void (this.#name = name),
    produce: (node: Node | undefined): void => void (this.#producer = node),
    addUse: (use: Use): void => void this.#uses.push(use),
    removeUse: (node: Node, index: number): void => {
      const position = this.#uses.findIndex((use) => use.node === node && use.index === index);
      if (position >= 0) this.#uses.splice(position, 1);
    },
  };
}
