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

/** Attention between q, k, v layers and the layer that reads its output. */
export interface AttentionSite {
  readonly name: string;
  readonly graph: Graph;
  readonly form: 'decomposed' | 'GroupQueryAttention' | 'MultiHeadAttention' | 'Attention';
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
  readonly inputs: readonly InputGroup[];
  /** Places that nearly match a pattern, nearest first. */
  readonly nearMisses: readonly Rejection[];
  readonly shapes: Shapes;
}
