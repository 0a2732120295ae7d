/** What a rewritten model says of its quantized caches, for programs that run the decoding loop. */
import { parseList } from '../../ops/common/json.js';
import type { Model } from '../ir/index.js';

/** Metadata key: a JSON list of `CacheEntry`. */
export const cachesKey = 'lowbit.kv_cache';

/**
 * One cache tensor: codes uint8 `[batch, kv heads, tokens, head size · bits / 8]` under the name that the float cache had, and its
 * parameters float16 `[batch, kv heads, tokens, 2]` (scale, min) beside it. Both outputs are fed back as they are.
 */
export interface CacheEntry {
  readonly layer?: number;
  readonly kind: 'key' | 'value';
  readonly bits: 4 | 8;
  /** Whether keys are held before or after RoPE. */
  readonly rope: 'pre' | 'post' | 'none';
  /** `growing`: present has the new tokens behind those of past. `in_place`: both have one shape, and may be one buffer. */
  readonly form: 'growing' | 'in_place';
  readonly past: string;
  readonly past_param: string;
  readonly present: string;
  readonly present_param: string;
}

/** The quantized caches of a model; none of a float one. @throws input error if the metadata is not what the rewriter wrote */
export function readCaches(model: Model): CacheEntry[] {
  const text = model.metadata.get(cachesKey) ?? '[]';
  return parseList<CacheEntry>(text, `metadata "${cachesKey}"`, 'what the rewriter wrote');
}
