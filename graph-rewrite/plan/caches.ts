/** Decides about key and value caches. */
import { kvRowBytes } from '../../ops/formats/kv.js';
import type { Model, Node, Value } from '../ir/index.js';
import type { Analysis, CachedAttention, CacheSite } from '../analyze/sites.js';
import { byteLength } from '../onnx/dtype.js';
import type { KvSettings, Recipe } from '../recipes/recipe.js';
import { kvSettings } from '../recipes/resolve.js';
import type { PlanCache } from './plan.js';

/** One decision for each attention, and one for caches that no known attention reads; undefined when the recipe leaves caches alone. */
export function decideCaches(analysis: Analysis, recipe: Recipe, model: Model): PlanCache[] | undefined {
  const settings = kvSettings(recipe);
  if (settings.bits === 0) return undefined;
  return [...analysis.caches.map((cache) => decide(cache, settings, analysis)), ...unreadCaches(analysis, model)];
}

const cacheName = /past.*(key|value)|(key|value|[kv])_cache|cache_(key|value|[kv])/i;

/** What looks like a cache of keys or values, but leads to no attention that analysis knows. */
function unreadCaches({ attentions }: Analysis, { graph }: Model): PlanCache[] {
  const known = new Set<Node | undefined>(attentions.flatMap(({ node, o }) => [node, o?.node]));
  const leads = (input: Value): boolean => {
    const seen = new Set([input]);
    for (const { uses } of seen)
      for (const { node } of uses) {
        if (known.has(node)) return true;
        if (!node.is('Shape')) for (const output of node.outputs) if (output) seen.add(output);
      }
    return false;
  };
  const unread = graph.inputs.filter((input) => {
    const isCache = cacheName.test(input.name) && input.shape?.length === 4 && /float/.test(input.dtype ?? '');
    return isCache && !leads(input);
  });
  const [first] = unread;
  if (!first) return [];
  const reader = first.uses.find(({ node }) => !node.is('Shape'))?.node;
  const more = unread.length - 1;
  const rest = more > 0 ? `, and ${more} more ${more > 1 ? 'caches' : 'cache'} like it` : '';
  const found = reader ? `${reader.opType} "${reader.name}" reads it` : 'nothing reads it';
  return [
    { site: first.name, decision: 'keep', reason: `${found}, no attention that is known${rest}`, expected: false },
  ];
}

function decide(cache: CacheSite, settings: KvSettings, analysis: Analysis): PlanCache {
  const { attention, cached, reason, hasCache } = cache;
  const layer = attention.v?.layer ?? attention.q?.layer;
  const base = { site: attention.name, ...(layer === undefined ? {} : { layer }) };
  if (!cached) return { ...base, decision: 'keep', reason: reason ?? 'its cache is not known', expected: !hasCache };
  if (settings.form === 'in_place' && cached.growsBecause)
    return { ...base, decision: 'keep', reason: `it cannot stay in place: ${cached.growsBecause}`, expected: false };
  const rope = cached.rotary === 'none' ? 'none' : settings.rope;
  const bits = settings.bits as 4 | 8;
  return {
    ...base,
    ...{ decision: 'quantize', bits, rope, clip: settings.clip, form: settings.form },
    ...bytes(cached, bits, analysis),
    notes: [
      ...(rope === 'none' ? [] : [`keys ${rope === 'pre' ? 'before' : 'after'} RoPE`]),
      ...(rope === 'none' && cached.layouts && cached.layouts.k !== 'rows'
        ? [`keys as "${cached.k!.name}" has them`]
        : []),
      ...(settings.form === 'in_place' ? ['in place'] : []),
    ],
  };
}

function bytes(
  { kvHeads, headSize, key }: CachedAttention,
  bits: 4 | 8,
  { shapes }: Analysis,
): { bytesPerToken: number; floatBytesPerToken: number } {
  const float = byteLength(shapes.dtype(key.past) ?? 'float32', kvHeads * headSize);
  return { bytesPerToken: 2 * kvHeads * (kvRowBytes(headSize, bits) + 4), floatBytesPerToken: 2 * float };
}
