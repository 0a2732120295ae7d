/**
 * Whether caches can stay in buffers of fixed size. Then the size of a cache input says nothing of how many tokens it holds, so nothing
 * that the rewritten graph computes may ask for it.
 */
import type { Graph, Node, Value } from '../ir/index.js';
import type { CachedAttention } from './sites.js';

/** Why these attentions of one graph need caches that grow; undefined if they do not. */
export function growsBecause(graph: Graph, caches: readonly CachedAttention[]): string | undefined {
  const blind = caches.find(({ lastIndex, attentionMask }) => !lastIndex && !attentionMask);
  if (blind) return `no input attention_mask says how many tokens "${blind.key.past.name}" holds`;
  const asks = askersOfLength(graph, caches)[0];
  return asks && `${asks.opType} "${asks.name}" asks for the size of a cache`;
}

/** Shape nodes that read a cache and still matter once each attention is one node. */
function askersOfLength(graph: Graph, caches: readonly CachedAttention[]): Node[] {
  const tensors = caches.flatMap(({ key, value }) => [key, value]);
  const presents = new Set<Value>(tensors.map(({ present }) => present));
  const own = new Set<Value>(
    tensors.flatMap(({ past, present, copy }) => (copy ? [past, present, copy] : [past, present])),
  );
  const attentionOf = new Map<Value, CachedAttention>(caches.map((cached) => [cached.y, cached]));
  const found: Node[] = [];
  const seen = new Set<Value>();
  const queue = graph.outputs.filter((output) => !presents.has(output));
  for (let at = queue.pop(); at; at = queue.pop()) {
    if (seen.has(at)) continue;
    seen.add(at);
    const cached = attentionOf.get(at);
    if (cached) {
      queue.push(...inputsOf(cached));
      // The table of all positions is made by a copy of the nodes, for other positions.
      if (cached.angles?.kind === 'computed') seen.add(cached.angles.positions);
    } else if (at.producer?.is('Shape') && own.has(at.producer.input(0)!)) found.push(at.producer);
    else if (at.producer) queue.push(...at.producer.inputs.filter((input) => input !== undefined));
  }
  return found;
}

/** What the operator that takes over an attention reads. */
function inputsOf({ q, k, v, lastIndex, angles, mask }: CachedAttention): Value[] {
  const masks = mask?.kind === 'where' ? [mask.condition, mask.lowest] : [mask?.value];
  return [q, k, v, lastIndex, angles?.cos, angles?.sin, ...masks].filter((value) => value !== undefined);
}
