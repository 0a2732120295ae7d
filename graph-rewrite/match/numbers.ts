/** Tensors of plain numbers for `evaluate.ts`: broadcasting, and what rules are given. */
import { attrInts, type Node } from '../ir/index.js';

/** A tensor of plain numbers, row by row. */
export interface Numbers {
  readonly dims: readonly number[];
  readonly values: ArrayLike<number>;
}

/** What a rule sees of a node: inputs that were computed (undefined if skipped), and its attributes. */
export interface RuleInput {
  readonly node: Node;
  readonly inputs: readonly (Numbers | undefined)[];
}

/** The first output, or undefined for cases that are not handled. */
export type Rule = (input: RuleInput) => Numbers | undefined;

/** Nothing larger is computed. */
export const maxElements = 1 << 22;

export const vector = (values: readonly number[]): Numbers => ({ dims: [values.length], values });

/** The shape that two shapes broadcast to. */
export function broadcastDims(a: readonly number[], b: readonly number[]): number[] | undefined {
  const rank = Math.max(a.length, b.length);
  const dims = Array.from({ length: rank }, (_, axis) => {
    const [x, y] = [a[axis - rank + a.length] ?? 1, b[axis - rank + b.length] ?? 1];
    return x === y || y === 1 ? x : x === 1 ? y : -1;
  });
  return dims.includes(-1) ? undefined : dims;
}

/** A tensor repeated to a shape that its own broadcasts to; undefined if it does not. */
export function expand({ dims, values }: Numbers, to: readonly number[]): Numbers | undefined {
  const lead = to.length - dims.length;
  if (lead < 0 || dims.some((dim, axis) => dim !== 1 && dim !== to[axis + lead])) return undefined;
  const total = to.reduce((all, dim) => all * dim, 1);
  if (total > maxElements) return undefined;
  const result = new Float64Array(total);
  const strides = to.map(() => 0);
  for (let axis = dims.length - 1, stride = 1; axis >= 0; stride *= dims[axis]!, axis--)
    strides[axis + lead] = dims[axis] === 1 ? 0 : stride;
  const index = to.map(() => 0);
  for (let i = 0, from = 0; i < total; i++) {
    result[i] = values[from]!;
    for (let axis = to.length - 1; axis >= 0; axis--) {
      from += strides[axis]!;
      if (++index[axis]! < to[axis]!) break;
      from -= strides[axis]! * to[axis]!;
      index[axis] = 0;
    }
  }
  return { dims: to, values: result };
}

/** Axes that may be an input (newer opsets) or an attribute. */
export function axesOf({ node, inputs }: RuleInput, index: number): number[] | undefined {
  const given = inputs[index]?.values;
  if (given) return Array.from(given);
  const listed = attrInts(node, 'axes', []);
  return listed.length > 0 ? listed : undefined;
}
