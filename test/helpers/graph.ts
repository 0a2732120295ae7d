/** Builds small graphs for tests of analysis and passes. */
import { Model, tensorOf, type Attribute, type DType, type Graph, type Value } from '../../graph-rewrite/ir/index.js';
import { Random } from './random.js';

type Shape = NonNullable<Value['shape']>;

interface NodeOptions {
  readonly domain?: string;
  readonly name?: string;
  readonly attributes?: Readonly<Record<string, Attribute>>;
  readonly outputs?: readonly (string | undefined)[];
}

export class TestGraph {
  readonly model: Model;
  readonly graph: Graph;
  readonly #random = new Random('test graph');

  constructor(opset = 18, graph?: Graph) {
    this.model =
      graph?.model ??
      new Model({
        irVersion: 10,
        opsetImports: [
          ['', opset],
          ['com.microsoft', 1],
        ],
      });
    this.graph = graph ?? this.model.graph;
  }

  input(name: string, shape: Shape, dtype: DType = 'float32'): Value {
    return this.graph.addInput(name, dtype, shape);
  }

  /** A constant of normal random floats. */
  weight(name: string, dims: readonly number[], scale = 0.1): Value {
    const count = dims.reduce((all, dim) => all * dim, 1);
    return this.graph.addInitializer(
      name,
      tensorOf(
        this.#random.normals('float32', count).map((value) => value * scale),
        dims,
      ),
    );
  }

  number(value: number): Value {
    return this.graph.addInitializer('number', tensorOf(Float32Array.of(value), []));
  }

  integers(...values: number[]): Value {
    return this.graph.addInitializer('integers', tensorOf(values));
  }

  /** A node; its first output. */
  op(opType: string, inputs: readonly (Value | undefined)[], options: NodeOptions = {}): Value {
    const { domain = '', name = opType, attributes = {}, outputs = [`${name}_y`] } = options;
    return this.graph.addNode({ opType, domain, name, inputs, outputs, attributes }).output(0)!;
  }

  output(value: Value, shape?: Shape, dtype: DType = 'float32'): void {
    value.dtype = dtype;
    if (shape) value.shape = shape;
    this.graph.addOutput(value);
  }

  /** RMSNorm as the dynamo exporter writes it. */
  rmsNorm(x: Value, weight: Value): Value {
    const mean = this.op('ReduceMean', [this.op('Pow', [x, this.number(2)]), this.integers(-1)]);
    const root = this.op('Sqrt', [this.op('Add', [mean, this.number(1e-5)])]);
    return this.op('Mul', [weight, this.op('Mul', [x, this.op('Reciprocal', [root])])], { name: 'norm' });
  }
}
