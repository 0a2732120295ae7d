/** Puts the facts about an attention together, whatever it was written as. */
import type { Node, Value } from '../ir/index.js';
import { headsOf, type HeadPath } from './kv-heads.js';
import { strangeRepeat } from './kv-repeats.js';
import { sameRotation, sourceOfAngles, type Rotation } from './kv-rotation.js';
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
  if (typeof kvHeads !== 'number' || typeof headSize !== 'number') return 'the size of a head is not known';
  const width = shapes.lastDim(y);
  const heads = headsOf(queries.rows, queries.layout, shapes, headSize) ?? (width && width / headSize);
  if (!heads) return 'how many heads queries have is not known';
  if (value.past.shape?.[1] !== kvHeads || value.past.shape[3] !== headSize)
    return 'keys and values have heads of different sizes';
  if (!Number.isInteger(heads) || heads % kvHeads !== 0) return `${heads} query heads share ${kvHeads} heads`;
  for (const { rows, layout } of [keys, values]) {
    const count = headsOf(rows, layout, shapes, headSize);
    if (count !== undefined && count !== kvHeads)
      return `"${rows.name}" has ${count} heads where the cache has ${kvHeads}: they are repeated in front of it`;
  }
  for (const { rows, layout } of [queries, keys, values])
    if (layout !== 'rows' && (shapes.lastDim(rows) ?? headSize) !== headSize)
      return `"${rows.name}" has no heads of ${headSize}`;
  if (values.scale !== 1) return `values are multiplied by ${values.scale}`;
  const repeat = [keys, values]
    .map(
      ({ cache, end, swapped, read }) =>
        cache && strangeRepeat({ joined: cache.present, end, swapped, read, kvHeads, headSize }, shapes),
    )
    .find(Boolean);
  if (repeat) return repeat;
  const ends = [y, key.present, value.present];
  const stray = strayUser(value, values.nodes, readers[1], ends) ?? strayUser(key, keys.nodes, readers[0], ends);
  if (stray) return stray;
  const angles = sharedAngles(queries.rotation, keys.rotation, values.rotation);
  if (typeof angles === 'string') return angles;
  const layouts = { q: queries.layout, k: keys.layout, v: values.layout };
  return {
    ...{ kvHeads, headSize, heads },
    ...{ q: queries.rows, k: keys.rows, v: values.rows, y, key, value },
    ...(Object.values(layouts).some((layout) => layout !== 'rows') ? { layouts } : {}),
    rotary: angles ? keys.rotation!.kind : 'none',
    ...(angles ? { angles } : {}),
    ...(mask ? { mask } : {}),
    // 0 is the operators' word for the usual one.
    scale: (scale || 1 / Math.sqrt(headSize)) * queries.scale * keys.scale,
    ...{ softcap, causal, window },
  };
}

/** Likewise; where the rotation of queries and keys cannot be taken over, it stays in the graph. */
export function assembleEither(parts: (rotations: boolean) => AttentionParts | string, shapes: Shapes) {
  const [first, second] = [true, false].map((rotations) => {
    const found = parts(rotations);
    return typeof found === 'string' ? found : assemble(found, shapes);
  }) as [CachedAttention | string, CachedAttention | string];
  return typeof first === 'string' ? (typeof second === 'string' ? first : second) : first;
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

/** Others that read the float cache, or what attention makes of it on the way to its `ends`: they would read codes. */
export function strayUser(
  { past, present, copy }: CacheTensor,
  nodes: ReadonlySet<Node>,
  reader: Node,
  ends: readonly Value[],
): string | undefined {
  const stray = [...past.uses, ...(copy?.uses ?? [])].find(
    ({ node }) => node !== reader && node !== copy?.producer && !nodes.has(node) && !node.is('Shape'),
  );
  if (stray) return `the cache is also read by ${stray.node.opType} "${stray.node.name}"`;
  const seen = new Set<Value>([present]);
  for (const value of seen) {
    if (value.isGraphOutput && value !== present) return `what it makes of the cache is the output "${value.name}"`;
    for (const { node } of value.uses)
      if (!node.is('Shape')) for (const output of node.outputs) if (output && !ends.includes(output)) seen.add(output);
  }
  return undefined;
}
