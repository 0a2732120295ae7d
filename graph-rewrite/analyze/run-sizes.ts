/** How large the values of a text model are in a run of given sizes, as far as shapes tell. */
import type { Graph, Value } from '../ir/index.js';
import type { Shapes } from './shapes.js';

export interface RunSizes {
  readonly batch: number;
  /** New tokens. */
  readonly tokens: number;
  /** Earlier tokens, in caches. */
  readonly past: number;
}

/** For `Evaluator`: sizes of values that are not computed but asked for their shape. */
export function sizesInRun(
  graph: Graph,
  shapes: Shapes,
  attentionMask: Value | undefined,
  run: RunSizes,
): (value: Value) => readonly number[] | undefined {
  const sizes = new Map<Value, readonly number[]>();
  const symbols = new Map<string, number>();
  for (const input of graph.inputs) {
    const dims = sizesOf(input, input === attentionMask, run);
    if (!dims) continue;
    sizes.set(input, dims);
    input.shape!.forEach((dim, axis) => typeof dim === 'string' && dim !== '' && symbols.set(dim, dims[axis]!));
  }
  return (value) => sizes.get(value) ?? resolve(shapes.dims(value), symbols);
}

/** Sizes of an input of the model: a cache, attention_mask, or something for each new token. */
function sizesOf({ shape }: Value, isMask: boolean, { batch, tokens, past }: RunSizes): number[] | undefined {
  if (shape?.length === 4) return shape.map((dim, axis) => (axis === 0 ? batch : axis === 2 ? past : Number(dim)));
  if (shape?.length === 2) return [batch, isMask ? past + tokens : tokens];
  return shape?.length === 1 ? [tokens] : undefined;
}

/** Sizes with names as numbers; sums and products of names as `shape-data.ts` writes them. */
function resolve(
  dims: readonly (number | string)[] | undefined,
  symbols: ReadonlyMap<string, number>,
): number[] | undefined {
  const known = (dim: number | string): number => {
    if (typeof dim === 'number') return dim;
    const symbol = symbols.get(dim);
    if (symbol !== undefined) return symbol;
    for (const [sign, join] of [
      [' + ', (a: number, b: number) => a + b],
      [' * ', (a: number, b: number) => a * b],
    ] as const) {
      const parts = dim.split(sign);
      if (parts.length > 1) return parts.map((part) => known(/^\d+$/.test(part) ? Number(part) : part)).reduce(join);
    }
    return NaN;
  };
  const sizes = dims?.map(known);
  return sizes?.every((size) => Number.isInteger(size)) ? sizes : undefined;
}
