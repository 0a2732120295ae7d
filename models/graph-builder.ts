// Shorthand for building decoder graphs.
import type { Attribute } from '../graph-rewrite/ir/attributes.js';
import type { Graph } from '../graph-rewrite/ir/graph.js';
import type { Tensor } from '../graph-rewrite/ir/tensor.js';
import type { Dim, Value } from '../graph-rewrite/ir/value.js';
import type { DType } from '../graph-rewrite/onnx/dtype.js';
import type { LlamaConfig } from './llama-config.js';
import { plain, transposed, type FloatType, type WeightSource } from './weights.js';

export class GraphBuilder {
  readonly graph: Graph;
  readonly config: LlamaConfig;
  readonly dtype: FloatType;
  readonly #weights: WeightSource;
  readonly #constants = new Map<string, Value>();

  constructor(graph: Graph, config: LlamaConfig, weights: WeightSource, dtype: FloatType) {
    this.graph = graph;
    this.config = config;
    this.dtype = dtype;
    this.#weights = weights;
  }

  input(name: string, dtype: DType, shape: readonly Dim[]): Value {
    return this.graph.addInput(name, dtype, shape);
  }

  /** Declares a value of the model's float type as output of the model. */
  output(value: Value, shape: readonly Dim[]): void {
    value.dtype = this.dtype;
    value.shape = shape;
    this.graph.addOutput(value);
  }

  /** A node of ai.onnx with one output. */
  op(
    opType: string,
    name: string,
    inputs: readonly (Value | undefined)[],
    attributes: Record<string, Attribute> = {},
    output = `${name}/output_0`,
  ): Value {
    return this.graph.addNode({ opType, name, inputs, outputs: [output], attributes }).output(0)!;
  }

  /** A small constant, made once per name. */
  constant(name: string, tensor: Tensor): Value {
    const known = this.#constants.get(name);
    if (known) return known;
    const value = this.graph.addInitializer(`constant.${name}`, tensor);
    this.#constants.set(name, value);
    return value;
  }

  /** A weight of `hidden` elements. */
  vector(name: string): Value {
    return this.graph.addInitializer(name, plain(this.#weights(name, [this.config.hidden]), this.dtype));
  }

  /** x times one or more linears of K inputs, side by side; `outputs` are their widths. */
  linear(names: readonly string[], x: Value, outputs: readonly number[], K: number, output?: string): Value {
    const sources = names.map((name, index) => this.#weights(`${name}.weight`, [outputs[index]!, K]));
    const name = names.length === 1 ? names[0]! : names[0]!.replace(/q_proj$/, 'qkv_proj');
    const weight = this.graph.addInitializer(`${name}.weight`, transposed(sources, this.dtype));
    return this.op('MatMul', `/${name.replaceAll('.', '/')}/MatMul`, [x, weight], {}, output);
  }
}
