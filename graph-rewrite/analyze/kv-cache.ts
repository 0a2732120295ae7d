/** Attention that keeps a key and value cache, as facts from which one operator can take it over, or why it cannot. */
import type { Graph } from '../ir/index.js';
import { findDecomposedCache } from './kv-decomposed.js';
import { growsBecause } from './kv-in-place.js';
import { MaskReader } from './kv-mask.js';
import { findOperatorCache } from './kv-operators.js';
import type { Shapes } from './shapes.js';
import type { AttentionSite, CachedAttention, CacheSite } from './sites.js';

/** The facts, or the reason why there are none. */
type Found = CachedAttention | string;

export function findCaches(attentions: readonly AttentionSite[], shapes: Shapes): CacheSite[] {
  const found = attentions.map((attention) => {
    const { found, hasCache } = find(attention, shapes);
    return { attention, hasCache, found: typeof found === 'string' ? found : (checkSizes(found) ?? found) };
  });
  const taken = found.flatMap(({ found }) => (typeof found === 'string' ? [] : [found]));
  const graph = taken[0]?.key.past.graph;
  const float = found.find(({ found, hasCache }) => hasCache && typeof found === 'string')?.attention;
  const facts = graph && maskFacts(graph, taken, float, shapes);
  return found.map(({ attention, hasCache, found }) => ({
    ...{ attention, hasCache },
    ...(typeof found === 'string' ? { reason: found } : { cached: facts!.get(found)! }),
  }));
}

/**
 * What masks mean, and whether the caches need to grow: facts about all attentions of a graph together.
 * @param float one whose cache stays as it is
 */
function maskFacts(
  graph: Graph,
  taken: readonly CachedAttention[],
  float: AttentionSite | undefined,
  shapes: Shapes,
): ReadonlyMap<CachedAttention, CachedAttention> {
  const attentionMask = graph.inputs.find(({ name, shape }) => name === 'attention_mask' && shape?.length === 2);
  const reader = new MaskReader(graph, shapes, attentionMask);
  const known = taken.map(({ mask, ...rest }): CachedAttention => {
    const meaning = mask && reader.meaning(mask);
    return {
      ...rest,
      ...(attentionMask ? { attentionMask } : {}),
      ...(rest.lastIndex && !rest.lastIndex.isGraphInput && reader.countsMarks(rest.lastIndex)
        ? { countsMarks: true }
        : {}),
      ...(meaning ? { causal: true } : {}),
      ...(meaning === 'causal and padding' ? { padding: true } : {}),
      ...(mask && meaning !== 'causal' ? { mask } : {}),
    };
  });
  const grows = float ? `the float cache of "${float.name}" grows` : growsBecause(graph, known);
  return new Map(taken.map((each, i) => [each, grows ? { ...known[i]!, growsBecause: grows } : known[i]!]));
}

function find(attention: AttentionSite, shapes: Shapes): { found: Found; hasCache: boolean } {
  const { node, form } = attention;
  if (node.graph.parent) return { found: 'it is inside a subgraph', hasCache: true };
  return form === 'decomposed' ? findDecomposedCache(attention, shapes) : findOperatorCache(attention, shapes);
}

function checkSizes({ headSize }: CachedAttention): string | undefined {
  const fits = headSize % 16 === 0 && headSize <= 512;
  return fits ? undefined : `heads have ${headSize} channels, expected a multiple of 16, at most 512`;
}
