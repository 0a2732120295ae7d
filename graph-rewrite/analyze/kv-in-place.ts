/**
 * Whether caches can stay in buffers of fixed size. Then neither the size of a cache input nor that of attention_mask says how many tokens
 * there are, so nothing that the rewritten graph computes may ask for them; only the number of marks in attention_mask does.
 */
import { attrInt, type Graph, type Node, type Value } from '../ir/index.js';
import { integersOf } from '../match/constants.js';
import type { CachedAttention } from './sites.js';

/** Why these attentions of one graph need caches that grow; undefined if they do not. */
export function growsBecause(graph: Graph, caches: readonly CachedAttention[]): string | undefined {
  for (const { key, lastIndex, countsMarks, attentionMask, mask, padding } of caches) {
    if (!lastIndex && !attentionMask) return `no input attention_mask says how many tokens "${key.past.name}" holds`;
    if (lastIndex && !lastIndex.isGraphInput && !countsMarks)
      return `"${lastIndex.name}" is not the number of tokens in attention_mask`;
    if (mask && !padding) return `the mask "${mask.value.name}" says more than attention_mask`;
  }
  const asks = askersOfLength(graph, caches)[0];
  return asks && `${asks.opType} "${asks.name}" asks for the size of a cache or of attention_mask`;
}

/** Nodes that read the size of a cache, or attention_mask, and still matter once each attention is one node. */
function askersOfLength(graph: Graph, caches: readonly CachedAttention[]): Node[] {
  const tensors = caches.flatMap(({ key, value }) => [key, value]);
  const presents = new Set<Value>(tensors.map(({ present }) => present));
  const sized = new Set<Value | undefined>(tensors.flatMap(({ past, present, copy }) => [past, present, copy]));
  const masks = new Set<Value | undefined>(caches.map(({ attentionMask }) => attentionMask));
  const attentionOf = new Map<Value, CachedAttention>(caches.map((cached) => [cached.y, cached]));
  const found: Node[] = [];
  const seen = new Set<Value>();
  const queue = graph.outputs.filter((output) => !presents.has(output));
  for (let at = queue.pop(); at; at = queue.pop()) {
    if (seen.has(at)) continue;
    seen.add(at);
    const node = at.producer;
    const cached = attentionOf.get(at);
    if (cached) {
      const { q, k, v, angles } = cached;
      // The table of all positions is made by a copy of the nodes, for other positions.
      if (angles?.kind === 'computed') seen.add(angles.positions);
      queue.push(...[q, k, v, angles?.cos, angles?.sin].filter((value) => value !== undefined));
    } else if (node?.is('Shape')) {
      const axis = sized.has(node.input(0)) ? 2 : masks.has(node.input(0)) ? 1 : undefined;
      if (axis === undefined) queue.push(node.input(0)!);
      else if (asksFor(node, axis)) found.push(node);
    } else if (node?.inputs.some((input) => masks.has(input))) found.push(node);
    else if (node) queue.push(...node.inputs.filter((input) => input !== undefined));
  }
  return found;
}

/** Whether anything behind a Shape node may depend on the size along an axis. */
function asksFor(shape: Node, axis: number): boolean {
  const start = attrInt(shape, 'start', 0);
  if (axis < start || axis >= attrInt(shape, 'end', Infinity)) return false;
  return shape.output(0)!.uses.some(({ node }) => {
    const picked = node.is('Gather') ? integersOf(node.input(1)) : undefined;
    return !picked || picked.some((index) => index < 0 || index + start === axis);
  });
}
