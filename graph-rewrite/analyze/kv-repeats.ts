/**
 * Whether heads of a cache reach queries as one operator shares them: query head h reads head h · kv heads / heads. Exporters repeat heads
 * in many ways, so a sample of numbered elements is sent through the nodes.
 */
import { Evaluator } from '../match/evaluate.js';
import type { Value } from '../ir/index.js';
import { sizesInRun } from './run-sizes.js';
import type { Shapes } from './shapes.js';

/** Makes numbers of elements no integers, which are divided without a rest. */
const half = 0.5;
const tokens = 1;
const past = 2;

interface Repeated {
  /** `[B, kv heads, T, head size]`, numbered. */
  readonly joined: Value;
  /** What reaches the product: heads, perhaps with the last axes swapped, or rows `[B, T, heads · head size]`. */
  readonly end: Value;
  readonly swapped: boolean;
  /** What elements are multiplied by on the way. */
  readonly read: number;
  readonly kvHeads: number;
  readonly headSize: number;
}

/** @returns the reason why not */
export function strangeRepeat({ joined, end, swapped, read, kvHeads, headSize }: Repeated, shapes: Shapes) {
  const { graph } = end;
  const fixed = joined.shape?.[0];
  const batch = typeof fixed === 'number' ? fixed : 2;
  const total = past + tokens;
  const mask = graph.inputs.find(({ name, shape }) => name === 'attention_mask' && shape?.length === 2);
  const numbered = Float64Array.from({ length: batch * kvHeads * total * headSize }, (_, i) => i + half);
  const given = new Map([[joined, { dims: [batch, kvHeads, total, headSize], values: numbered }]]);
  const sent = new Evaluator(given, sizesInRun(graph, shapes, mask, { batch, tokens, past })).run(end);
  const name = `"${end.name}"`;
  if (!sent) return `how heads of "${joined.name}" become ${name} cannot be followed`;
  const inRows = sent.dims.length === 3;
  const heads = inRows ? sent.dims[2]! / headSize : sent.dims[1]!;
  const expected = inRows
    ? [batch, total, heads * headSize]
    : [batch, heads, ...(swapped ? [headSize, total] : [total, headSize])];
  if (heads % kvHeads !== 0 || expected.some((dim, axis) => dim !== sent.dims[axis]))
    return `${name} has no heads of "${joined.name}"`;
  const strides = inRows ? [headSize, heads * headSize, 1] : [total * headSize, headSize, 1];
  if (swapped) [strides[1], strides[2]] = [1, total];
  for (let b = 0; b < batch; b++)
    for (let h = 0; h < heads; h++)
      for (let t = 0; t < total; t++)
        for (let d = 0; d < headSize; d++) {
          const at = b * heads * total * headSize + h * strides[0]! + t * strides[1]! + d * strides[2]!;
          const kvHead = Math.floor((h * kvHeads) / heads);
          const want = ((b * kvHeads + kvHead) * total + t) * headSize + d;
          if (Math.abs(sent.values[at]! / read - half - want) > 0.25)
            return `head ${h} of ${name} is not head ${kvHead} of "${joined.name}", as sharing in turn has it`;
        }
  return undefined;
}
