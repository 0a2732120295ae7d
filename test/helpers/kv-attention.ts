/** Random cases of QuantKvAttention: inputs for the reference, and the same as a session and its feeds. */
import { Tensor, type InferenceSession } from '../../native/js/index.js';
import { kvRowBytes, quantizeKvRow, type KvBits } from '../../ops/formats/kv.js';
import type { RowFormat } from '../../ops/formats/segments.js';
import type {
  KvCache,
  QuantKvAttentionAttributes,
  QuantKvAttentionInputs,
} from '../../ops/quant-kv-attention/reference.js';
import { floatTensor, opSession, type GraphType, type InputSpec } from './op-model.js';
import { Random } from './random.js';
import { roundToFloat16 } from '../../ops/common/float16.js';

export interface KvCase extends Partial<QuantKvAttentionAttributes> {
  readonly title: string;
  readonly batch?: number;
  readonly tokens: number;
  readonly past: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly lengths?: readonly number[];
  /** Channels that RoPE leaves alone are the last headDim − 2·pairs. */
  readonly pairs?: number;
  /** Dimensions of the mask but the last one; 1 is broadcast. */
  readonly mask?: readonly [number, number, number];
  readonly packed?: boolean;
  /** Makes one new key and one new value unusual. */
  readonly oddValue?: number;
  /** Quantizes the output too. */
  readonly output?: RowFormat & { readonly reorderIndex?: Int32Array; readonly withoutY?: boolean };
}

export interface PreparedKv {
  readonly inputs: QuantKvAttentionInputs;
  readonly attributes: QuantKvAttentionAttributes;
  readonly feeds: Record<string, Tensor>;
}

export function attributesOf(c: KvCase): QuantKvAttentionAttributes {
  const { heads, kvHeads, headDim, bits = 4, clip = 1, scale = 0, softcap = 0, causal = true, window = 0 } = c;
  const { rotary = 'none', kvRope = 'pre', inPlace = false } = c;
  return { heads, kvHeads, headDim, bits, clip, scale, softcap, causal, window, rotary, kvRope, inPlace };
}

export function randomCache(random: Random, rows: number, headDim: number, bits: KvBits): KvCache {
  const bytes = kvRowBytes(headDim, bits);
  const cache = { codes: new Uint8Array(rows * bytes), parameters: new Uint16Array(2 * rows) };
  for (let row = 0; row < rows; row++) {
    const to = cache.codes.subarray(row * bytes, (row + 1) * bytes);
    const { scale, min } = quantizeKvRow(random.normals('float32', headDim), bits, 1, to);
    cache.parameters.set([scale, min], 2 * row);
  }
  return cache;
}

/** RoPE tables [positions, pairs]. */
function tables(type: GraphType, positions: number, pairs: number): Record<'cos' | 'sin', Float32Array> {
  const table = (of: (angle: number) => number) =>
    Float32Array.from({ length: positions * pairs }, (_, i) => {
      const value = of(Math.floor(i / pairs) * 10000 ** (-(i % pairs) / pairs));
      return type === 'float16' ? roundToFloat16(value) : value;
    });
  return { cos: table(Math.cos), sin: table(Math.sin) };
}

/** Repeats a broadcast mask in full, as the reference wants it. */
function fullMask(mask: Float32Array, from: readonly number[], to: readonly number[], columns: number): Float32Array {
  const full = new Float32Array(to[0]! * to[1]! * to[2]! * columns);
  for (let row = 0; row < full.length / columns; row++) {
    const at = [Math.floor(row / (to[1]! * to[2]!)), Math.floor(row / to[2]!) % to[1]!, row % to[2]!];
    const [b, h, s] = at.map((index, axis) => (from[axis] === 1 ? 0 : index)) as [number, number, number];
    const source = ((b * from[1]! + h) * from[2]! + s) * columns;
    full.set(mask.subarray(source, source + columns), row * columns);
  }
  return full;
}

/** Random inputs of a case, for the reference and for a session. */
export function prepareKv(c: KvCase, type: GraphType): PreparedKv {
  const { batch = 1, tokens, past, heads, kvHeads, headDim, lengths } = c;
  const attributes = attributesOf(c);
  const random = new Random(c.title);
  const count = (width: number) => batch * tokens * width * headDim;
  const [q, k, v] = [heads, kvHeads, kvHeads].map((each) => random.normals(type, count(each))) as [
    Float32Array,
    Float32Array,
    Float32Array,
  ];
  if (c.oddValue !== undefined) k[headDim * kvHeads + 3] = v[2 * headDim * kvHeads + 5] = c.oddValue;
  const [pastK, pastV] = [0, 1].map(() => randomCache(random, batch * kvHeads * past, headDim, attributes.bits)) as [
    KvCache,
    KvCache,
  ];
  const room = attributes.inPlace ? past : past + tokens;
  const pairs = attributes.rotary === 'none' ? 0 : (c.pairs ?? headDim / 2);
  const turns = pairs > 0 ? tables(type, room + 3, pairs) : undefined;
  const columns = room + 2;
  const mask =
    c.mask &&
    random.normals(
      type,
      c.mask.reduce((all, dim) => all * dim, columns),
    );
  if (mask && columns > 4) for (let i = 4; i < mask.length; i += 7) mask[i] = -Infinity;

  const rowBytes = kvRowBytes(headDim, attributes.bits);
  const cacheFeeds = (name: string, cache: KvCache) => ({
    [name]: new Tensor('uint8', cache.codes, [batch, kvHeads, past, rowBytes]),
    [`${name}_param`]: new Tensor('float16', cache.parameters as never, [batch, kvHeads, past, 2]),
  });
  const rows = (name: string, values: Float32Array, width: number) => ({
    [name]: floatTensor(type, values, [batch, tokens, width]),
  });
  const fresh = c.packed
    ? rows(
        'q',
        interleave(
          [q, k, v],
          [heads, kvHeads, kvHeads].map((each) => each * headDim),
        ),
        (heads + 2 * kvHeads) * headDim,
      )
    : { ...rows('q', q, heads * headDim), ...rows('k', k, kvHeads * headDim), ...rows('v', v, kvHeads * headDim) };
  return {
    attributes,
    inputs: {
      ...{ batch, tokens, past, q, k, v, pastK, pastV, lengths, pairs },
      ...(turns ?? {}),
      mask: mask && { values: fullMask(mask, c.mask!, [batch, heads, tokens], columns), columns },
    },
    feeds: {
      ...fresh,
      ...cacheFeeds('past_k', pastK),
      ...cacheFeeds('past_v', pastV),
      ...(lengths ? { lengths: new Tensor('int32', Int32Array.from(lengths), [batch]) } : {}),
      ...(turns ? { cos: floatTensor(type, turns.cos, [room + 3, pairs]) } : {}),
      ...(turns ? { sin: floatTensor(type, turns.sin, [room + 3, pairs]) } : {}),
      ...(mask ? { mask: floatTensor(type, mask, [...c.mask!, columns]) } : {}),
      ...(c.output?.reorderIndex
        ? { reorder_index: new Tensor('int32', c.output.reorderIndex, [heads * headDim]) }
        : {}),
    },
  };
}

function interleave(parts: readonly Float32Array[], widths: readonly number[]): Float32Array {
  const width = widths.reduce((sum, each) => sum + each, 0);
  const whole = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let column = 0;
  parts.forEach((part, i) => {
    for (let row = 0; row * widths[i]! < part.length; row++)
      whole.set(part.subarray(row * widths[i]!, (row + 1) * widths[i]!), row * width + column);
    column += widths[i]!;
  });
  return whole;
}

/** A session of one node that takes the feeds of such a case. */
export function kvSession(c: KvCase, type: GraphType, feeds: Record<string, Tensor>): Promise<InferenceSession> {
  const { kvHeads, headDim, bits, kvRope, inPlace, causal, heads, ...rest } = attributesOf(c);
  const open = (name: string, dtype: InputSpec['dtype'], rank: number): InputSpec => ({
    name,
    dtype,
    dims: Array.from({ length: rank }, (_, i) => `${name}_${i}`),
  });
  const optional = (name: string, dtype: InputSpec['dtype'], rank: number) =>
    feeds[name] ? open(name, dtype, rank) : undefined;
  const cache = (name: string) => [open(name, 'uint8', 4), open(`${name}_param`, 'float16', 4)];
  return opSession({
    op: 'QuantKvAttention',
    inputs: [
      open('q', type, 3),
      optional('k', type, 3),
      optional('v', type, 3),
      ...cache('past_k'),
      ...cache('past_v'),
      optional('lengths', 'int32', 1),
      optional('cos', type, 2),
      optional('sin', type, 2),
      optional('mask', type, 4),
      optional('reorder_index', 'int32', 1),
    ],
    outputs: [
      c.output?.withoutY ? undefined : open('y', type, 3),
      ...[...cache('present_k'), ...cache('present_v')],
      ...(c.output ? [open('codes', 'int8', 3), open('scale', 'float32', 3)] : []),
    ],
    attributes: {
      ...{ num_heads: heads, kv_num_heads: kvHeads, head_dim: headDim, bits, kv_rope: kvRope },
      ...rest,
      ...{ causal: Number(causal), in_place: Number(inPlace) },
      ...(c.output && {
        ...{ q_format: c.output.format, q_group_size: c.output.groupSize },
        ...{ q_outlier_channels: c.output.outlierChannels, q_clip: c.output.clip },
      }),
    },
    floats: ['clip', 'scale', 'softcap', 'q_clip'],
  });
}
