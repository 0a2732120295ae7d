/**
 * Shapes and small integer values, inferred forward with symbols for unknown sizes.
 *
 * Two dimensions with the same text are equal in every run; different texts prove nothing. That is what the planner needs: whether a
 * residual Add is one without broadcasting, and whether a Reshape keeps rows together. Exporters write this into value_info, or not.
 */
import { attrInt, type DType, type Graph, type Model, type Node, type Value } from '../ir/index.js';
import { integersOf } from '../match/constants.js';
import { dataRules } from './shape-data.js';
import { shapeRules } from './shape-rules.js';

/** A size: a number, or a name for a size known at run time only. */
export type Dim = number | string;
export type Dims = readonly Dim[];

const longestData = 64;

/** What is known of every value of a model. */
export class Shapes {
  readonly #dims = new Map<Value, Dims>();
  readonly #data = new Map<Value, Dims>();
  readonly #types = new Map<Value, DType>();

  constructor(model: Model) {
    for (const graph of model.walkGraphs()) this.#infer(graph);
  }

  /** The shape, or undefined when not even the rank is known. */
  dims(value: Value | undefined): Dims | undefined {
    if (!value) return undefined;
    const known = this.#dims.get(value);
    if (known) return known;
    const constant = value.constant();
    return constant ? constant.dims : undefined;
  }

  /** The elements of a small integer tensor (a shape, an index), as far as they follow from shapes. */
  data(value: Value | undefined): Dims | undefined {
    if (!value) return undefined;
    return this.#data.get(value) ?? integersOf(value);
  }

  /** The element type, if it follows from anything. */
  dtype(value: Value | undefined): DType | undefined {
    if (!value) return undefined;
    return this.#types.get(value) ?? value.dtype ?? value.constant()?.dtype;
  }

  /** The size of the last axis when it is a number. */
  lastDim(value: Value | undefined): number | undefined {
    const last = this.dims(value)?.at(-1);
    return typeof last === 'number' ? last : undefined;
  }

  /** Whether two values certainly have one shape. */
  sameShape(a: Value | undefined, b: Value | undefined): boolean {
    return sameDims(this.dims(a), this.dims(b));
  }

  #infer(graph: Graph): void {
    for (const input of graph.inputs) this.#declare(input, undefined);
    for (const node of graph.nodes) {
      const shapes = shapeRules.get(node.opType)?.(node, this) ?? [];
      node.outputs.forEach((output, index) => {
        if (output) this.#declare(output, shapes[index]);
      });
      const first = node.output(0);
      if (!first) continue;
      const data = dataRules.get(node.opType)?.(node, this);
      if (data && data.length <= longestData) this.#data.set(first, data);
      const dtype = first.dtype ?? this.#outputType(node);
      if (dtype) for (const output of node.outputs) if (output) this.#types.set(output, output.dtype ?? dtype);
    }
  }

  /** Joins what was inferred with what the file says; sizes that neither knows get a name of their own. */
  #declare(value: Value, inferred: Dims | undefined): void {
    const declared = value.shape;
    const rank = inferred?.length ?? declared?.length;
    if (rank === undefined) return;
    const agreed = declared?.length === rank ? declared : [];
    this.#dims.set(
      value,
      Array.from({ length: rank }, (_, axis) => {
        const fromFile = agreed[axis];
        if (typeof fromFile === 'number') return fromFile;
        const own = `${value.name}#${axis}`;
        const found = inferred?.[axis];
        return (found === own ? undefined : found) ?? (fromFile || own);
      }),
    );
  }

  #outputType(node: Node): DType | undefined {
    if (node.opType === 'Shape' || node.opType === 'Size') return 'int64';
    if (booleans.has(node.opType)) return 'bool';
    if (node.opType === 'Cast') return castTypes.get(attrInt(node, 'to', 0));
    if (node.opType === 'Where') return this.dtype(node.input(1));
    const constant = node.output(0)?.constant();
    return constant?.dtype ?? this.dtype(node.input(0));
  }
}

const booleans = new Set(['Equal', 'Less', 'LessOrEqual', 'Greater', 'GreaterOrEqual', 'And', 'Or', 'Not', 'IsNaN']);

/** ONNX numbers of the types that a Cast in front of a layer can name. */
const castTypes: ReadonlyMap<number, DType> = new Map<number, DType>([
  [1, 'float32'],
  [6, 'int32'],
  [7, 'int64'],
  [9, 'bool'],
  [10, 'float16'],
  [11, 'float64'],
  [16, 'bfloat16'],
]);

/** Whether two shapes are known and certainly equal. */
export function sameDims(a: Dims | undefined, b: Dims | undefined): boolean {
  return a !== undefined && b !== undefined && a.length === b.length && a.every((dim, axis) => dim === b[axis]);
}
