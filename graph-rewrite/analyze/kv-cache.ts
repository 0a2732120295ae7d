/** Attention that keeps a key and value cache, as facts from which one operator can take it over, or why it cannot. */
import { attrFloat, attrInt, attrString, type Graph, type Node, type Value } from '../ir/index.js';
import { findDecomposedCache, noCache } from './kv-decomposed.js';
import { growsBecause } from './kv-in-place.js';
import { MaskReader } from './kv-mask.js';
import type { Shapes } from './shapes.js';
import type { AttentionSite, CachedAttention, CacheSite, CacheTensor } from './sites.js';

/** The facts, or the reason why there are none. */
type Found = CachedAttention | string;

export function findCaches(attentions: readonly AttentionSite[], shapes: Shapes): CacheSite[] {
  const found = attentions.map((attention) => {
    const { found, hasCache } = find(attention, shapes);
    return { attention, hasCache, found: typeof found === 'string' ? found : (checkSizes(found) ?? found) };
  });
  const taken = found.flatMap(({ found }) => (typeof found === 'string' ? [] : [found]));
  const graph = taken[0]?.key.past.graph;
  const facts = graph && maskFacts(graph, taken, shapes);
  return found.map(({ attention, hasCache, found }) => ({
    ...{ attention, hasCache },
    ...(typeof found === 'string' ? { reason: found } : { cached: facts!.get(found)! }),
  }));
}

/** What masks mean, and whether the caches need to grow: facts about all attentions of a graph together. */
function maskFacts(
  graph: Graph,
  taken: readonly CachedAttention[],
  shapes: Shapes,
): ReadonlyMap<CachedAttention, CachedAttention> {
  const attentionMask = graph.inputs.find(({ name, shape }) => name === 'attention_mask' && shape?.length === 2);
  const reader = new MaskReader(graph, shapes, attentionMask);
  const known = taken.map(({ mask, ...rest }): CachedAttention => {
    const meaning = mask && reader.meaning(mask);
    return {
      ...rest,
      ...(attentionMask ? { attentionMask } : {}),
      ...(meaning ? { causal: true } : {}),
      ...(meaning === 'causal and padding' ? { padding: true } : {}),
      ...(mask && meaning !== 'causal' ? { mask } : {}),
    };
  });
  const grows = growsBecause(graph, known, reader);
  return new Map(taken.map((each, i) => [each, grows ? { ...known[i]!, growsBecause: grows } : known[i]!]));
}

function find(attention: AttentionSite, shapes: Shapes): { found: Found; hasCache: boolean } {
  const { node, form } = attention;
  if (node.graph.parent) return { found: 'it is inside a subgraph', hasCache: true };
  if (form === 'GroupQueryAttention') return { found: groupQueryCache(attention, shapes), hasCache: true };
  if (form === 'decomposed') return findDecomposedCache(attention, shapes);
  const hasCache = node.inputs.some((input) => input?.isGraphInput && input.shape?.length === 4);
  return {
    found: hasCache ? `${form} "${node.name}" is not taken over, expected GroupQueryAttention or plain nodes` : noCache,
    hasCache,
  };
}

function checkSizes({ headSize }: CachedAttention): string | undefined {
  const fits = headSize % 16 === 0 && headSize <= 512;
  return fits ? undefined : `heads have ${headSize} channels, expected a multiple of 16, at most 512`;
}

/** A cache input with its output, both at the edge of the graph. */
function cacheTensor(past: Value | undefined, present: Value | undefined): CacheTensor | undefined {
  return past?.isGraphInput && present?.isGraphOutput && !past.initializer ? { past, present } : undefined;
}

enum Input {
  Query,
  Key,
  Value,
  PastKey,
  PastValue,
  LastIndex,
  Total,
  Cos,
  Sin,
  Positions,
  Bias,
}

function groupQueryCache({ node, headSize, heads, kvHeads }: AttentionSite, shapes: Shapes): Found {
  const at = `GroupQueryAttention "${node.name}"`;
  const key = cacheTensor(node.input(Input.PastKey), node.output(1));
  const value = cacheTensor(node.input(Input.PastValue), node.output(2));
  if (!key || !value) return `the cache of ${at} is not an input and an output of the model`;
  if (!headSize || !heads || !kvHeads) return 'the size of a head is not known';
  const shared = [key, value].map(({ past }) => past.uses.find((use) => use.node !== node && !use.node.is('Shape')));
  if (shared.some(Boolean)) return `the cache of ${at} is also read by "${shared.find(Boolean)!.node.name}"`;
  const extra = node.inputs.findIndex((input, i) => input && (i === (Input.Positions as number) || i > Input.Bias));
  if (extra >= 0) return `${at} has an input ${extra} ("${node.input(extra)!.name}"), which is not taken over`;
  const unknown = unknownAttribute(node);
  if (unknown) return `${at} has ${unknown}, which is not taken over`;
  const [lastIndex, bias] = [node.input(Input.LastIndex), node.input(Input.Bias)];
  const rotates = attrInt(node, 'do_rotary', 0) === 1;
  const [cos, sin] = [node.input(Input.Cos), node.input(Input.Sin)];
  if (!lastIndex) return `${at} has no seqlens_k`;
  if (rotates && (!cos || !sin)) return `${at} rotates without tables`;
  if (bias && shapes.dims(bias)?.length !== 4) return `the bias "${bias.name}" of ${at} has no known rank of 4`;
  const window = attrInt(node, 'local_window_size', -1);
  const [k, v] = [node.input(Input.Key), node.input(Input.Value)];
  return {
    ...{ heads, kvHeads, headSize, key, value, lastIndex },
    q: node.input(Input.Query)!,
    ...(k && v ? { k, v } : {}),
    y: node.output(0)!,
    rotary: !rotates ? 'none' : attrInt(node, 'rotary_interleaved', 0) === 1 ? 'interleaved' : 'half',
    ...(rotates ? { angles: { kind: 'tables', cos: cos!, sin: sin! } } : {}),
    ...(bias ? { mask: { kind: 'added', value: bias } } : {}),
    scale: attrFloat(node, 'scale', 0),
    softcap: attrFloat(node, 'softcap', 0),
    causal: true,
    window: Math.max(0, window),
  };
}

/** Settings of GroupQueryAttention that change the function in ways the operator has no word for. */
function unknownAttribute(node: Node): string | undefined {
  if (attrInt(node, 'smooth_softmax', 0) > 0) return 'smooth_softmax';
  if (attrInt(node, 'qk_output', 0) !== 0) return 'qk_output';
  for (const name of ['k_quant_type', 'v_quant_type'])
    if (attrString(node, name, 'NONE') !== 'NONE') return 'a cache that is quantized already';
  return undefined;
}
