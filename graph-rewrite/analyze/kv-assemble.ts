/** Puts the facts about an attention together, whatever it was written as. */
import type { Node, Value } from '../ir/index.js';
import { sameRotation, sourceOfAngles, type Rotation } from './kv-rotation.js';
import type { HeadPath } from './kv-heads.js';
import type { Shapes } from './shapes.js';
import type { Angles, CachedAttention, CacheTensor } from './sites.js';

export interface AttentionParts extends Pick<CachedAttention, 'mask' | 'scale' | 'softcap' | 'causal' | 'window'> {
  readonly queries: HeadPath;
  readonly keys: HeadPath;
  readonly values: HeadPath;
  /** Caches that the operator itself takes; otherwise they are on the way of keys and values. */
  readonly key?: CacheTensor | undefined;
  readonly value?: CacheTensor | undefined;
  /** What multiplies keys, and what multiplies values. */
  readonly readers: readonly [Node, Node];
  /** Rows of the output. */
  readonly y: Value | undefined;
}

/** The facts, or the reason why one operator cannot take the attention over. */
export function assemble(parts: AttentionParts, shapes: Shapes): CachedAttention | string {
  const { queries, keys, values, readers, y } = parts;
  const { mask, scale, softcap, causal, window } = parts;
  const [key, value] = [parts.key ?? keys.cache, parts.value ?? values.cache];
  if (!key) return 'keys have no cache';
  if (!value) return 'values have no cache';
  if (queries.cache) return 'queries have a cache';
  if ((parts.key && keys.cache) || (parts.value && values.cache)) return 'keys or values have two caches';
  const rank = shapes.dims(y)?.length;
  if (!y || (rank !== 2 && rank !== 3)) return 'the output is not put together by Transpose 0,2,1,3 and Reshape';
  const [kvHeads, headSize] = [key.past.shape?.[1], key.past.shape?.[3]];
  const width = shapes.lastDim(queries.rows);
  if (typeof kvHeads !== 'number' || typeof headSize !== 'number' || !width) return 'the size of a head is not known';
  if (value.past.shape?.[1] !== kvHeads || value.past.shape[3] !== headSize)
    return 'keys and values have heads of different sizes';
  const stray = strayUser(value, values.nodes, readers[1]) ?? strayUser(key, keys.nodes, readers[0]);
  if (stray) return stray;
  const angles = sharedAngles(queries.rotation, keys.rotation, values.rotation);
  if (typeof angles === 'string') return angles;
  return {
    ...{ kvHeads, headSize, heads: width / headSize },
    ...{ q: queries.rows, k: keys.rows, v: values.rows, y, key, value },
    rotary: angles ? keys.rotation!.kind : 'none',
    ...(angles ? { angles } : {}),
    ...(mask ? { mask } : {}),
    // 0 is the operators' word for the usual one.
    scale: (scale || 1 / Math.sqrt(headSize)) * queries.scale * keys.scale,
    ...{ softcap, causal, window },
  };
}

function sharedAngles(
  queries: Rotation | undefined,
  keys: Rotation | undefined,
  values: Rotation | undefined,
): Angles | string | undefined {
  if (values) return 'values are rotated';
  if (!queries && !keys) return undefined;
  if (!queries || !keys || !sameRotation(queries, keys)) return 'queries and keys are rotated differently';
  return sourceOfAngles(keys);
}

/** Others that read the float cache would read codes. */
export function strayUser(
  { past, present, copy }: CacheTensor,
  nodes: ReadonlySet<Node>,
  reader: Node,
): string | undefined {
  const stray = [...past.uses, ...present.uses, ...(copy?.uses ?? [])].find(
    ({ node }) => node !== reader && node !== copy?.producer && !nodes.has(node) && !node.is('Shape'),
  );
  return stray && `the cache is also read by ${stray.node.opType} "${stray.node.name}"`;
}
