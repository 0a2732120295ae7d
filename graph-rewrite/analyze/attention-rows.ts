/** Attention that could read the results of its q, k and v layers side by side, as one value. */
import type { Value } from '../ir/index.js';
import type { AttentionSite, CachedAttention } from './sites.js';

/** The results of the q, k and v layers, in this order. */
export type AttentionRows = readonly [Value, Value, Value];

/**
 * The rows that attention reads and nothing else does, so that one product can make them all.
 * @param cached where a QuantKvAttention takes the attention over; else it is a GroupQueryAttention of ONNX Runtime, which reads packed rows too
 * @returns undefined where rows are packed already, change on the way from their layers, or have other readers
 */
export function attentionRows(
  { form, node, q, k, v }: AttentionSite,
  cached: CachedAttention | undefined,
): AttentionRows | undefined {
  if (!q || !k || !v || new Set([q, k, v]).size !== 3) return undefined;
  const rows: AttentionRows = [q.y, k.y, v.y];
  const read = cached ? [cached.q, cached.k, cached.v] : form === 'GroupQueryAttention' ? node.inputs.slice(0, 3) : [];
  if (!rows.every((row, i) => row === read[i])) return undefined;
  const ends = cached ? [cached.y, cached.key.present, cached.value.present] : node.outputs;
  return leadOnlyTo(rows, new Set(ends)) ? rows : undefined;
}

/** Whether every way from some values to an output of a graph goes through one of the ends. */
function leadOnlyTo(from: readonly Value[], ends: ReadonlySet<Value | undefined>): boolean {
  const seen = new Set(from);
  for (const value of seen) {
    if (value.isGraphOutput) return false;
    for (const { node } of value.uses)
      for (const output of node.outputs) if (output && !ends.has(output)) seen.add(output);
  }
  return true;
}
