/**
 * `QuantKvAttention` beside ONNX Runtime's `GroupQueryAttention` in float32, both with a growing cache under plain `run`, RoPE inside:
 * a prompt, and one token after a long context.
 */
import { opModel, type OpSpec } from '../models/op-model.js';
import { InferenceSession, Tensor } from '../native/js/index.js';
import { timeRuns, type Timing } from './measure.js';

export interface KvCase {
  /** New tokens and tokens before them. */
  readonly tokens: number;
  readonly past: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
  readonly bits: 4 | 8;
  readonly kvRope: 'pre' | 'post';
  readonly threads: number;
}

export interface KvResult extends KvCase {
  readonly time: Timing;
  /** GroupQueryAttention's. */
  readonly peer: Timing;
}

const shapes = [
  { heads: 32, kvHeads: 4, headDim: 64 },
  { heads: 32, kvHeads: 8, headDim: 128 },
];
const lengths = [
  { tokens: 1, past: 1024 },
  { tokens: 1, past: 4096 },
  { tokens: 512, past: 0 },
];

/** Every shape and length, keys before and after RoPE, in 4 bits. */
export function kvCases(threadCounts: readonly number[]): KvCase[] {
  return threadCounts.flatMap((threads) =>
    shapes.flatMap((shape) =>
      lengths.flatMap((length) =>
        (['pre', 'post'] as const).map((kvRope) => ({ ...shape, ...length, kvRope, bits: 4 as const, threads })),
      ),
    ),
  );
}

const port = (name: string, dtype: 'float32' | 'float16' | 'uint8' | 'int32', rank: number) => ({
  name,
  dtype,
  dims: Array.from({ length: rank }, (_, i) => `${name}_${i}`),
});

const floats = (count: number): Float32Array => Float32Array.from({ length: count }, (_, i) => Math.sin(i * 12.9898));

function table({ tokens, past, headDim }: KvCase, of: (x: number) => number): Float32Array {
  const half = headDim / 2;
  return Float32Array.from({ length: (tokens + past) * half }, (_, i) => of(Math.floor(i / half) * 0.9 ** (i % half)));
}

function ours(one: KvCase): OpSpec {
  const { heads, kvHeads, headDim, bits, kvRope } = one;
  const dims = [one.tokens + one.past, headDim / 2];
  return {
    op: 'QuantKvAttention',
    inputs: [
      ...[port('q', 'float32', 3), port('k', 'float32', 3), port('v', 'float32', 3)],
      ...[port('past_k', 'uint8', 4), port('past_k_param', 'float16', 4)],
      ...[port('past_v', 'uint8', 4), port('past_v_param', 'float16', 4), undefined],
      { name: 'cos', dtype: 'float32', dims, constant: table(one, Math.cos) },
      { name: 'sin', dtype: 'float32', dims, constant: table(one, Math.sin) },
    ],
    outputs: [
      port('y', 'float32', 3),
      ...[port('present_k', 'uint8', 4), port('present_k_param', 'float16', 4)],
      ...[port('present_v', 'uint8', 4), port('present_v_param', 'float16', 4)],
    ],
    attributes: { num_heads: heads, kv_num_heads: kvHeads, head_dim: headDim, bits, rotary: 'half', kv_rope: kvRope },
  };
}

function peer(one: KvCase): OpSpec {
  const dims = [one.tokens + one.past, one.headDim / 2];
  return {
    op: 'GroupQueryAttention',
    domain: 'com.microsoft',
    inputs: [
      ...['q', 'k', 'v'].map((name) => port(name, 'float32', 3)),
      ...['past_k', 'past_v'].map((name) => port(name, 'float32', 4)),
      ...[port('last', 'int32', 1), { name: 'total', dtype: 'int32' as const, dims: [] }],
      { name: 'cos', dtype: 'float32', dims, constant: table(one, Math.cos) },
      { name: 'sin', dtype: 'float32', dims, constant: table(one, Math.sin) },
    ],
    outputs: [port('y', 'float32', 3), port('present_k', 'float32', 4), port('present_v', 'float32', 4)],
    attributes: { num_heads: one.heads, kv_num_heads: one.kvHeads, do_rotary: 1 },
  };
}

/** Feeds for both; each session takes what it has inputs for. */
function feeds(one: KvCase): { ours: Record<string, Tensor>; peer: Record<string, Tensor> } {
  const { tokens, past, heads, kvHeads, headDim, bits } = one;
  const rows = (width: number) => new Tensor('float32', floats(tokens * width), [1, tokens, width]);
  const fresh = { q: rows(heads * headDim), k: rows(kvHeads * headDim), v: rows(kvHeads * headDim) };
  const bytes = (headDim * bits) / 8;
  const codes = () => {
    const data = Uint8Array.from({ length: kvHeads * past * bytes }, (_, i) => (i * 2654435761) >>> 24);
    return new Tensor('uint8', data, [1, kvHeads, past, bytes]);
  };
  const parameters = () => {
    const data = Uint16Array.from({ length: kvHeads * past * 2 }, (_, i) => (i % 2 ? 0xbc00 : 0x3000)); // −1, 1/8
    return new Tensor('float16', data as never, [1, kvHeads, past, 2]);
  };
  const cache = () => new Tensor('float32', floats(kvHeads * past * headDim), [1, kvHeads, past, headDim]);
  return {
    ours: { ...fresh, past_k: codes(), past_k_param: parameters(), past_v: codes(), past_v_param: parameters() },
    peer: {
      ...{ ...fresh, past_k: cache(), past_v: cache() },
      last: new Tensor('int32', Int32Array.of(past + tokens - 1), [1]),
      total: new Tensor('int32', Int32Array.of(past + tokens), []),
    },
  };
}

/** Times one case, whole runs. */
export async function benchKvAttention(one: KvCase, samples: number): Promise<KvResult> {
  const fed = feeds(one);
  const [own, theirs] = (await Promise.all(
    [ours(one), peer(one)].map((spec) => InferenceSession.create(opModel(spec), { intraOpNumThreads: one.threads })),
  )) as [InferenceSession, InferenceSession];
  const runs = [() => own.run(fed.ours), () => theirs.run(fed.peer)];
  const [mine, other] = await timeRuns(runs, { threads: one.threads, samples });
  for (const session of [own, theirs]) await session.release();
  return { ...one, time: mine!, peer: other! };
}
