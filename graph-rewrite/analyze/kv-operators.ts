/** The cache of attention that is one operator: GroupQueryAttention, MultiHeadAttention, Attention of opset 23. */
import { attrFloat, attrInt, attrString, type Node, type Value } from '../ir/index.js';
import { assembleEither, strayUser } from './kv-assemble.js';
import { noCache, readsCache } from './kv-decomposed.js';
import { followHeads, followRows, outputRows, type Follow, type HeadPath } from './kv-heads.js';
import { strangePositions } from './kv-rotation.js';
import type { Shapes } from './shapes.js';
import type { AttentionMask, AttentionSite, CachedAttention, CacheTensor } from './sites.js';

type Found = CachedAttention | string;

/** The facts, or the reason why there are none; and whether there is a cache at all. */
export function findOperatorCache(attention: AttentionSite, shapes: Shapes): { found: Found; hasCache: boolean } {
  const { node, form } = attention;
  const at = `${form} "${node.name}"`;
  if (form === 'GroupQueryAttention') return { found: groupQueryCache(attention, shapes), hasCache: true };
  if (form === 'PackedAttention') {
    const hasCache = node.input(4) !== undefined;
    return {
      found: hasCache ? `Attention "${node.name}" of com.microsoft has the weights of q, k and v inside` : noCache,
      hasCache,
    };
  }
  if (!node.inputs.some((input) => readsCache(input))) return { found: noCache, hasCache: false };
  return { found: (form === 'Attention' ? attentionCache : multiHeadCache)(node, at, shapes), hasCache: true };
}

/** A cache input with its output, both at the edge of the graph. */
function cacheTensor(past: Value | undefined, present: Value | undefined): CacheTensor | undefined {
  return past?.isGraphInput && present?.isGraphOutput && !past.initializer ? { past, present } : undefined;
}

/** Names the first input or output of a node that is used and not understood. */
function unknownPort(node: Node, inputs: readonly number[], outputs: number): string | undefined {
  const input = node.inputs.findIndex((value, i) => value && !inputs.includes(i));
  if (input >= 0) return `an input ${input} ("${node.input(input)!.name}")`;
  const output = node.outputs.findIndex(
    (value, i) => i >= outputs && value && (value.uses.length > 0 || value.isGraphOutput),
  );
  return output >= 0 ? `an output ${output} ("${node.output(output)!.name}")` : undefined;
}

/** What the operators have in common: caches at given inputs, or on the way of keys and values. */
interface Parts {
  /** How queries, keys and values are followed. */
  readonly follow: (value: Value | undefined, follow: Follow) => HeadPath | string;
  readonly past: readonly [number, number];
  readonly y: Value | undefined;
  readonly mask?: AttentionMask | undefined;
  readonly scale: number;
  readonly softcap: number;
  readonly causal: boolean;
}

function fromParts(node: Node, at: string, { follow, past, y, mask, ...settings }: Parts, shapes: Shapes): Found {
  const [key, value] = past.map((input, i) => cacheTensor(node.input(input), node.output(1 + i)));
  if (past.some((input, i) => node.input(input) && ![key, value][i]))
    return `the cache of ${at} is not an input and an output of the model`;
  return assembleEither((rotations) => {
    const joined = [false, !key, !value];
    const paths = joined.map((joins, i) => follow(node.input(i), { shapes, joins, rotations }));
    const wrong = paths.find((path) => typeof path === 'string');
    if (typeof wrong === 'string') return wrong;
    const [queries, keys, values] = paths as [HeadPath, HeadPath, HeadPath];
    if ([queries, keys, values].some(({ swapped }) => swapped)) return `${at} is given transposed heads`;
    const both = { queries, keys, values, key, value, readers: [node, node] as const };
    return { ...both, y, ...settings, ...(mask ? { mask } : {}), window: 0 };
  }, shapes);
}

enum MultiHead {
  Query,
  Key,
  Value,
  Bias,
  KeyPadding,
  AttentionBias,
  PastKey,
  PastValue,
}

function multiHeadCache(node: Node, at: string, shapes: Shapes): Found {
  const { Query, Key, Value, KeyPadding, AttentionBias, PastKey, PastValue } = MultiHead;
  if (node.input(MultiHead.Bias)) return `${at} adds a bias to queries, keys and values`;
  const unknown = unknownPort(node, [Query, Key, Value, KeyPadding, AttentionBias, PastKey, PastValue], 3);
  if (unknown) return `${at} has ${unknown}, which is not taken over`;
  const ranks = [Query, Key, Value].map((i) => shapes.dims(node.input(i))?.length);
  if (ranks.some((rank) => rank !== 3))
    return `${at} is given packed queries, keys and values, expected rank 3 for each`;
  const [padding, bias] = [node.input(KeyPadding), node.input(AttentionBias)];
  if (padding && bias) return `${at} has two masks`;
  if (padding && shapes.dims(padding)?.length !== 2)
    return `the key_padding_mask "${padding.name}" of ${at} has no known shape [batch, tokens]`;
  if (bias && shapes.dims(bias)?.length !== 4)
    return `the attention_bias "${bias.name}" of ${at} has no known rank of 4`;
  const causal = attrInt(node, 'unidirectional', 0) === 1;
  const inside = node.input(PastKey) !== undefined;
  if (causal && !inside) return `${at} counts the tokens of its own cache as new ones`;
  const lowest = attrFloat(node, 'mask_filter_value', -10000);
  return fromParts(
    node,
    at,
    {
      follow: followRows,
      past: [PastKey, PastValue],
      y: node.output(0),
      mask: padding ? { kind: 'where', value: padding, lowest, axes: [1, 2] } : bias && { kind: 'added', value: bias },
      ...{ scale: attrFloat(node, 'scale', 0), softcap: 0, causal },
    },
    shapes,
  );
}

function attentionCache(node: Node, at: string, shapes: Shapes): Found {
  const unknown = unknownPort(node, [0, 1, 2, 3, 4, 5], 3);
  if (unknown) return `${at} has ${unknown}, which is not taken over`;
  const ranks = [0, 1, 2].map((i) => shapes.dims(node.input(i))?.length);
  const [rank] = ranks;
  if ((rank !== 3 && rank !== 4) || ranks.some((each) => each !== rank)) return `${at} has inputs of no known rank`;
  const mask = node.input(3);
  const maskRank = shapes.dims(mask)?.length;
  if (mask && (maskRank === undefined || maskRank < 2)) return `the mask "${mask.name}" of ${at} has no known rank`;
  const causal = attrInt(node, 'is_causal', 0) === 1;
  if (causal && !node.input(4)) return `${at} counts the tokens of its own cache as new ones`;
  const softcap = attrFloat(node, 'softcap', 0);
  const axes = Array.from({ length: 4 - (maskRank ?? 4) }, (_, axis) => axis);
  const isCondition = shapes.dtype(mask) === 'bool';
  return fromParts(
    node,
    at,
    {
      follow: rank === 3 ? followRows : followHeads,
      past: [4, 5],
      y: rank === 3 ? node.output(0) : outputRows(node),
      mask: mask && { ...(isCondition ? { kind: 'where', lowest: -Infinity } : { kind: 'added' }), value: mask, axes },
      ...{ scale: attrFloat(node, 'scale', 0), softcap, causal },
    },
    shapes,
  );
}

enum GroupQuery {
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
  const key = cacheTensor(node.input(GroupQuery.PastKey), node.output(1));
  const value = cacheTensor(node.input(GroupQuery.PastValue), node.output(2));
  if (!key || !value) return `the cache of ${at} is not an input and an output of the model`;
  if (!headSize || !heads || !kvHeads) return 'the size of a head is not known';
  const ends = [node.output(0)!, key.present, value.present];
  const stray = [key, value].map((cache) => strayUser(cache, new Set(), node, ends)).find(Boolean);
  if (stray) return stray;
  const known = Array.from({ length: GroupQuery.Bias + 1 }, (_, i) => i);
  const port = unknownPort(node, known, 3);
  if (port) return `${at} has ${port}, which is not taken over`;
  const unknown = unknownAttribute(node);
  if (unknown) return `${at} has ${unknown}, which is not taken over`;
  const [lastIndex, bias] = [node.input(GroupQuery.LastIndex), node.input(GroupQuery.Bias)];
  const rotates = attrInt(node, 'do_rotary', 0) === 1;
  const [cos, sin] = [node.input(GroupQuery.Cos), node.input(GroupQuery.Sin)];
  const positions = node.input(GroupQuery.Positions);
  const strange = rotates && positions && strangePositions(positions);
  if (strange) return strange;
  if (!lastIndex) return `${at} has no seqlens_k`;
  if (rotates && (!cos || !sin)) return `${at} rotates without tables`;
  if (bias && shapes.dims(bias)?.length !== 4) return `the bias "${bias.name}" of ${at} has no known rank of 4`;
  const window = attrInt(node, 'local_window_size', -1);
  const [k, v] = [node.input(GroupQuery.Key), node.input(GroupQuery.Value)];
  return {
    ...{ heads, kvHeads, headSize, key, value, lastIndex },
    q: node.input(GroupQuery.Query)!,
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
