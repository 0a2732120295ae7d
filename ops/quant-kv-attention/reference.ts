/** The oracle of every `QuantKvAttention` kernel: codes exactly, attention in float64 over the dequantized cache. */
import { dequantizeKvRow, kvRowBytes, quantizeKvRow, type KvBits } from '../formats/kv.js';

const f = Math.fround;

/** Keys or values of all sequences: codes [B, heads, T, rowBytes] and float16 parameters [B, heads, T, 2]. */
export interface KvCache {
  readonly codes: Uint8Array;
  readonly parameters: Uint16Array;
}

export interface QuantKvAttentionAttributes {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly bits: KvBits;
  readonly clip: number;
  /** 0: 1/sqrt(headDim). */
  readonly scale: number;
  readonly softcap: number;
  readonly causal: boolean;
  readonly window: number;
  readonly rotary: 'none' | 'half' | 'interleaved';
  readonly kvRope: 'pre' | 'post';
  readonly inPlace: boolean;
}

export interface QuantKvAttentionInputs {
  readonly batch: number;
  /** S: new tokens. */
  readonly tokens: number;
  /** T: rows of the past cache. */
  readonly past: number;
  /** [B, S, heads·D], [B, S, kvHeads·D] twice; widened to binary32. */
  readonly q: Float32Array;
  readonly k: Float32Array;
  readonly v: Float32Array;
  readonly pastK: KvCache;
  readonly pastV: KvCache;
  readonly lengths?: ArrayLike<number> | undefined;
  /** [positions, R] */
  readonly cos?: Float32Array | undefined;
  readonly sin?: Float32Array | undefined;
  /** R: pairs of channels that RoPE turns. */
  readonly pairs?: number;
  /** [B, heads, S, columns], not broadcast. */
  readonly mask?: { readonly values: Float32Array; readonly columns: number } | undefined;
}

export interface QuantKvAttentionOutputs {
  /** [B, S, heads·D] in float64. */
  readonly y: Float64Array;
  readonly presentK: KvCache;
  readonly presentV: KvCache;
}

/** A row turned by RoPE at a position, each operation rounded to binary32. */
export function rotateRow(
  row: Float32Array,
  kind: 'none' | 'half' | 'interleaved',
  cos: Float32Array,
  sin: Float32Array,
): Float32Array {
  const turned = row.slice();
  if (kind === 'none') return turned;
  const pairs = cos.length;
  for (let i = 0; i < pairs; i++) {
    const [at, other] = kind === 'half' ? [i, i + pairs] : [2 * i, 2 * i + 1];
    const [a, b] = [row[at]!, row[other]!];
    turned[at] = f(f(a * cos[i]!) - f(b * sin[i]!));
    turned[other] = f(f(b * cos[i]!) + f(a * sin[i]!));
  }
  return turned;
}

/** Appends to the cache and attends. */
export function quantKvAttention(
  inputs: QuantKvAttentionInputs,
  attributes: QuantKvAttentionAttributes,
): QuantKvAttentionOutputs {
  const { batch, tokens, past, pairs = 0 } = inputs;
  const { heads, kvHeads, headDim: D, bits, inPlace, rotary } = attributes;
  const rows = inPlace ? past : past + tokens;
  const rowBytes = kvRowBytes(D, bits);
  const empty = (): KvCache => ({
    codes: new Uint8Array(batch * kvHeads * rows * rowBytes),
    parameters: new Uint16Array(batch * kvHeads * rows * 2),
  });
  const presentK = empty();
  const presentV = empty();
  const y = new Float64Array(batch * tokens * heads * D);
  const scale = attributes.scale || 1 / Math.sqrt(D);
  const turn = (row: Float32Array, position: number) => {
    const at = (table: Float32Array) => table.subarray(position * pairs, (position + 1) * pairs);
    return rotary === 'none' ? row : rotateRow(row, rotary, at(inputs.cos!), at(inputs.sin!));
  };
  for (let b = 0; b < batch; b++) {
    const length = inputs.lengths?.[b] ?? past + tokens;
    const start = Math.max(0, length - tokens);
    for (let head = 0; head < kvHeads; head++) {
      const keys = fill(presentK, inputs.pastK, inputs.k, (row, position) =>
        attributes.kvRope === 'post' ? turn(row, position) : row,
      );
      const values = fill(presentV, inputs.pastV, inputs.v, (row) => row);
      const turned = keys.map((row, j) => (attributes.kvRope === 'pre' ? turn(row, j) : row));
      for (let s = 0; s < Math.min(tokens, length - start); s++) {
        for (let h = (head * heads) / kvHeads; h < ((head + 1) * heads) / kvHeads; h++) {
          const at = ((b * tokens + s) * heads + h) * D;
          const query = turn(inputs.q.subarray(at, at + D), start + s);
          y.set(attend(query, turned, values, start + s, (b * heads + h) * tokens + s), at);
        }
      }

      function fill(
        present: KvCache,
        before: KvCache,
        fresh: Float32Array,
        prepare: (row: Float32Array, position: number) => Float32Array,
      ): Float32Array[] {
        return Array.from({ length }, (_, j) => {
          const to = (b * kvHeads + head) * rows + j;
          const codes = present.codes.subarray(to * rowBytes, (to + 1) * rowBytes);
          if (j < start) {
            const from = (b * kvHeads + head) * past + j;
            codes.set(before.codes.subarray(from * rowBytes, (from + 1) * rowBytes));
            present.parameters.set(before.parameters.subarray(2 * from, 2 * from + 2), 2 * to);
          } else {
            const at = ((b * tokens + j - start) * kvHeads + head) * D;
            const row = quantizeKvRow(prepare(fresh.subarray(at, at + D), j), bits, attributes.clip, codes);
            present.parameters.set([row.scale, row.min], 2 * to);
          }
          const [scaleBits, min] = present.parameters.subarray(2 * to, 2 * to + 2);
          return dequantizeKvRow(codes, bits, { scale: scaleBits!, min: min! });
        });
      }
    }
  }
  return { y, presentK, presentV };

  function attend(
    query: Float32Array,
    keys: readonly Float32Array[],
    values: readonly Float32Array[],
    position: number,
    maskRow: number,
  ): Float64Array {
    const { softcap, causal, window } = attributes;
    const end = causal ? position + 1 : keys.length;
    const begin = window > 0 ? Math.max(0, position - window + 1) : 0;
    const scores = keys.slice(begin, end).map((key, i) => {
      let score = scale * key.reduce((sum, value, d) => sum + value * query[d]!, 0);
      if (softcap > 0) score = softcap * Math.tanh(score / softcap);
      return score + (inputs.mask ? inputs.mask.values[maskRow * inputs.mask.columns + begin + i]! : 0);
    });
    const highest = scores.reduce((most, score) => (Number.isNaN(score) ? score : Math.max(most, score)), -Infinity);
    const result = new Float64Array(D);
    if (highest === -Infinity) return result;
    const weights = scores.map((score) => Math.exp(score - highest));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    weights.forEach((weight, i) => values[begin + i]!.forEach((value, d) => (result[d]! += (weight / total) * value)));
    return result;
  }
}
