/** Decides about key and value caches. */
import { kvRowBytes } from '../../ops/formats/kv.js';
import type { Analysis, CachedAttention, CacheSite } from '../analyze/sites.js';
import { byteLength } from '../onnx/dtype.js';
import type { KvSettings, Recipe } from '../recipes/recipe.js';
import { kvSettings } from '../recipes/resolve.js';
import type { PlanCache } from './plan.js';

/** One decision for each attention; undefined when the recipe leaves caches alone. */
export function decideCaches(analysis: Analysis, recipe: Recipe): PlanCache[] | undefined {
  const settings = kvSettings(recipe);
  if (settings.bits === 0) return undefined;
  return analysis.caches.map((cache) => decide(cache, settings, analysis));
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
