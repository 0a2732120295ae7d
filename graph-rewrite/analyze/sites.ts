/** What analysis finds: facts about places in the graph. Nothing here depends on a recipe. */
import type { Graph, Node, Tensor, Value } from '../ir/index.js';
import type { Rejection } from '../match/pattern.js';
import type { Shapes } from './shapes.js';

export type Role =
  | 'q_proj'
  | 'k_proj'
  | 'v_proj'
  | 'qkv_proj'
  | 'o_proj'
  | 'gate_proj'
  | 'up_proj'
  | 'gate_up_proj'
  | 'down_proj'
  | 'fc1'
  | 'fc2'
  | 'lm_head'
  | 'other';

export const roles: readonly Role[] = [
  'q_proj',
  'k_proj',
  'v_proj',
  'qkv_proj',
  'o_proj',
  'gate_proj',
  'up_proj',
  'gate_up_proj',
  'down_proj',
  'fc1',
  'fc2',
  'lm_head',
  'other',
];

/** A linear layer `y = x · W (+ bias)`. */
export interface LinearSite {
  /** Name of the node that multiplies; unique in the model. */
  readonly name: string;
  readonly node: Node;
  readonly graph: Graph;
  role: Role;
  /** Number of the decoder or encoder block, from 0. */
  layer?: number;
  /** Rows that are multiplied, `[…, K]`; behind a Reshape that only regroups rows when `y` was regrouped back. */
  readonly x: Value;
  /** The weight as floats, `layout` KN = `[K, N]`, NK = `[N, K]`; scaled by Gemm's alpha. */
  readonly weight: Tensor;
  /** The value that owns the weight's bytes: sites with the same one share a weight. */
  readonly weightValue: Value | undefined;
  readonly layout: 'KN' | 'NK';
  readonly K: number;
  readonly N: number;
  /** `[N]`, scaled by Gemm's beta. */
  readonly bias?: Tensor;
  /** The result, after the bias and after regrouping. */
  readonly y: Value;
  /** Nodes that this layer consists of, the product first. */
  readonly nodes: readonly Node[];
  readonly quantizable: boolean;
  /** Why not, with the place. */
  readonly reason?: string;
}

/** RMSNorm or LayerNorm over the last axis. */
export interface NormSite {
  readonly name: string;
  readonly node: Node;
  readonly graph: Graph;
  readonly kind: 'rms' | 'layer';
  readonly x: Value;
  /** Second summand of a norm that adds first (Skip… operators). */
  readonly residual?: Value;
  /** x + residual, where the operator also hands it out. */
  readonly sum?: Value;
  readonly y: Value;
  readonly weight: Value;
  /** 1 where the norm multiplies by 1 + weight (Gemma). */
  readonly weightOffset: 0 | 1;
  readonly bias?: Value;
  readonly epsilon: number;
  readonly K: number;
  readonly nodes: readonly Node[];
}

export type Activation = 'silu' | 'gelu' | 'gelu_tanh' | 'relu';

/** `act(gate) · up`. */
export interface GateSite {
  readonly name: string;
  readonly node: Node;
  readonly graph: Graph;
  readonly activation: Activation;
  readonly gate: Value;
  readonly up: Value;
  readonly y: Value;
  readonly nodes: readonly Node[];
}

/** `act(x)`. */
export interface ActSite {
  readonly name: string;
  readonly node: Node;
  readonly graph: Graph;
  readonly activation: Activation;
  readonly x: Value;
  readonly y: Value;
  readonly nodes: readonly Node[];
}

export type OperatorForm = 'GroupQueryAttention' | 'MultiHeadAttention' | 'Attention' | 'PackedAttention';

/** Attention between q, k, v layers and the layer that reads its output. */
export interface AttentionSite {
  readonly name: string;
  /** The operator, or the Softmax of attention taken apart. */
  readonly node: Node;
  readonly graph: Graph;
  /** `PackedAttention` is the Attention of com.microsoft. */
  readonly form: 'decomposed' | OperatorForm;
  readonly q?: LinearSite;
  readonly k?: LinearSite;
  readonly v?: LinearSite;
  readonly o?: LinearSite;
  /** Query heads, key/value heads and channels per head, when established. */
  readonly heads?: number;
  readonly kvHeads?: number;
  readonly headSize?: number;
  /** First row of `v`'s weight that makes values (above 0 when q, k and v are one layer). */
  readonly valueRow?: number;
  /** Why channels cannot be permuted inside heads from v to o; absent if they can. */
  readonly headOrderReason?: string;
}

/** A cache input and the output that continues it. */
export interface CacheTensor {
  readonly past: Value;
  readonly present: Value;
  /** A copy of `past` that attention reads in its place (older exports join it with nothing). */
  readonly copy?: Value;
}

/** cos and sin of RoPE. */
export type Angles =
  /** Constant tables `[positions, pairs]`. */
  | { readonly kind: 'tables'; readonly cos: Value; readonly sin: Value }
  /** Those of the new tokens, `[…, S, columns]`, of which the first half of a head's channels are the pairs, and the input they follow from. */
  | {
      readonly kind: 'computed';
      readonly cos: Value;
      readonly sin: Value;
      readonly columns: number;
      readonly positions: Value;
    };

/** How heads lie in a value: `[B, S, heads · head size]`, `[B, S, heads, head size]`, `[B, heads, S, head size]`. */
export type RowLayout = 'rows' | 'wide' | 'heads';

/** What hides keys from queries: `[B, heads, S, T + S]`, or broadcast to it once axes of size 1 are put in. */
export type AttentionMask = {
  /** Where the axes of size 1 go; none for a tensor of rank 4. */
  readonly axes?: readonly number[];
} & (
  | { readonly kind: 'added'; readonly value: Value }
  /** Where it is false (true if it `hides`), the scores are `lowest`. */
  | { readonly kind: 'where'; readonly value: Value; readonly lowest: number; readonly hides?: boolean }
);

/** Attention with a cache, from the rows of its q, k, v layers to the rows of its output, as one operator can do it. */
export interface CachedAttention {
  readonly heads: number;
  readonly kvHeads: number;
  readonly headSize: number;
  /** `[B, S, heads · headSize]`; queries, keys and values side by side when `k` and `v` are absent. */
  readonly q: Value;
  readonly k?: Value;
  readonly v?: Value;
  /** How heads lie in `q`, `k` and `v`; absent where all are rows. */
  readonly layouts?: Readonly<Record<'q' | 'k' | 'v', RowLayout>>;
  /** Rows like `q`'s, or flattened to rank 2. */
  readonly y: Value;
  readonly key: CacheTensor;
  readonly value: CacheTensor;
  /** Index of the last token of each sequence, int32; absent when all new tokens continue the whole past. */
  readonly lastIndex?: Value;
  /** `lastIndex` is the number of marks in `attentionMask`, less one. */
  readonly countsMarks?: boolean;
  /** The model's input that marks the tokens of each sequence, `[B, T + S]`. */
  readonly attentionMask?: Value;
  readonly rotary: 'none' | 'half' | 'interleaved';
  readonly angles?: Angles;
  readonly mask?: AttentionMask;
  /** The mask says no more than `causal` and `attentionMask`. */
  readonly padding?: boolean;
  readonly scale: number;
  readonly softcap: number;
  /** A query sees no key behind its own; where there is a mask, it says so too. */
  readonly causal: boolean;
  /** Keys that a query sees; 0 for all. */
  readonly window: number;
  /** Why the cache cannot stay in a buffer of fixed size; absent if it can. */
  readonly growsBecause?: string;
}

/** Where attention keeps a cache, or would if it could be taken over. */
export interface CacheSite {
  readonly attention: AttentionSite;
  /** Absent with a reason. */
  readonly cached?: CachedAttention;
  /** Why not, with the place. */
  readonly reason?: string;
  /** False for attention without a cache input: there is nothing to quantize. */
  readonly hasCache: boolean;
}

export type Producer =
  | { readonly kind: 'norm'; readonly norm: NormSite }
  | { readonly kind: 'gate'; readonly gate: GateSite }
  | { readonly kind: 'act'; readonly act: ActSite }
  | { readonly kind: 'attention'; readonly attention: AttentionSite }
  | { readonly kind: 'other' };

/** Linear layers that multiply the same rows. */
export interface InputGroup {
  readonly input: Value;
  readonly graph: Graph;
  readonly K: number;
  readonly linears: readonly LinearSite[];
  readonly producer: Producer;
}

export interface Analysis {
  readonly linears: readonly LinearSite[];
  readonly norms: readonly NormSite[];
  readonly gates: readonly GateSite[];
  readonly acts: readonly ActSite[];
  readonly attentions: readonly AttentionSite[];
  /** One for each attention. */
  readonly caches: readonly CacheSite[];
  readonly inputs: readonly InputGroup[];
  /** Places that nearly match a pattern, nearest first. */
  readonly nearMisses: readonly Rejection[];
  readonly shapes: Shapes;
}
