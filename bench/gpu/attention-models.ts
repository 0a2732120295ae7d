/** Models of several attentions, each with a cache of its own in place: our operator and ONNX Runtime's GroupQueryAttention. */
import {
  float,
  inlineTensor,
  int,
  Model,
  string,
  tensorOf,
  type Attribute,
  type DType,
  type Value,
} from '../../graph-rewrite/ir/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { toFloat16Bits } from '../../ops/common/float16.js';

export interface AttentionShape {
  readonly batch: number;
  /** New tokens. */
  readonly tokens: number;
  /** Tokens in all; the cache has room for exactly these. */
  readonly total: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly headDim: number;
}

export interface AttentionScheme {
  readonly name: string;
  /** Bits of the cache's elements; 16: GroupQueryAttention in float16. */
  readonly bits: 4 | 8 | 16;
  readonly kvRope?: 'pre' | 'post';
}

export const attentionSchemes: readonly AttentionScheme[] = [
  { name: 'GroupQueryAttention float16', bits: 16 },
  { name: 'QuantKvAttention 4 bits, keys before RoPE', bits: 4, kvRope: 'pre' },
  { name: 'QuantKvAttention 4 bits, keys after RoPE', bits: 4, kvRope: 'post' },
  { name: 'QuantKvAttention 8 bits, keys before RoPE', bits: 8, kvRope: 'pre' },
];

/** A cache tensor of one copy: fed under `past.…`, and fetched into the same memory under `present.…`. */
export interface CacheTensor {
  readonly slot: string;
  readonly dtype: 'float16' | 'uint8';
  readonly dims: readonly number[];
}

/** Caches of one attention. */
export function cacheTensors(
  { batch, kvHeads, total, headDim }: AttentionShape,
  { bits }: AttentionScheme,
): CacheTensor[] {
  return ['k', 'v'].flatMap((slot): CacheTensor[] => {
    if (bits === 16) return [{ slot, dtype: 'float16', dims: [batch, kvHeads, total, headDim] }];
    return [
      { slot, dtype: 'uint8', dims: [batch, kvHeads, total, (headDim * bits) / 8] },
      { slot: `${slot}_param`, dtype: 'float16', dims: [batch, kvHeads, total, 2] },
    ];
  });
}

/** Inputs q, k, v, lengths and `past.…N`; outputs `y` (of the first copy) and `present.…N`. */
export function attentionModel(shape: AttentionShape, scheme: AttentionScheme, copies: number): Uint8Array {
  const { batch, tokens, heads, kvHeads, headDim, total } = shape;
  const model = new Model({ irVersion: 10, opsetImports: Object.entries({ '': 21, 'com.microsoft': 1, lowbit: 1 }) });
  const { graph } = model;
  const rows = (name: string, count: number) => graph.addInput(name, 'float16', [batch, tokens, count * headDim]);
  const [q, k, v] = [rows('q', heads), rows('k', kvHeads), rows('v', kvHeads)];
  const lengths = graph.addInput('lengths', 'int32', [batch]);
  const wave = (of: (x: number) => number) =>
    inlineTensor('float16', [total, headDim / 2], halfTable(total * (headDim / 2), of));
  const [cos, sin] = [graph.addInitializer('cos', wave(Math.cos)), graph.addInitializer('sin', wave(Math.sin))];
  const own = scheme.bits !== 16;
  const totalTokens = own ? undefined : graph.addInitializer('total', tensorOf(Int32Array.of(total), []));
  for (let copy = 0; copy < copies; copy++) {
    const caches = cacheTensors(shape, scheme);
    const past = caches.map(({ slot, dtype, dims }) => graph.addInput(`past.${slot}${copy}`, dtype, dims));
    const node = graph.addNode({
      opType: own ? 'QuantKvAttention' : 'GroupQueryAttention',
      domain: own ? 'lowbit' : 'com.microsoft',
      name: `attention ${copy}`,
      inputs: own ? [q, k, v, ...past, lengths, cos, sin] : [q, k, v, ...past, lengths, totalTokens, cos, sin],
      outputs: [`y${copy}`, ...caches.map(({ slot }) => `present.${slot}${copy}`)],
      attributes: own ? ourAttributes(shape, scheme) : peerAttributes(shape),
    });
    if (copy === 0) declare(node.output(0)!, 'float16', [batch, tokens, heads * headDim]);
    caches.forEach(({ dtype, dims }, i) => declare(node.output(i + 1)!, dtype, dims));
  }
  return serializeModel(model);

  function declare(value: Value, dtype: DType, dims: readonly number[]): void {
    value.dtype = dtype;
    value.shape = dims;
    graph.addOutput(value);
  }
}

function ourAttributes(
  { heads, kvHeads, headDim }: AttentionShape,
  scheme: AttentionScheme,
): Record<string, Attribute> {
  return {
    ...{ num_heads: int(heads), kv_num_heads: int(kvHeads), head_dim: int(headDim), bits: int(scheme.bits) },
    ...{ rotary: string('half'), kv_rope: string(scheme.kvRope ?? 'pre'), in_place: int(1) },
  };
}

function peerAttributes({ heads, kvHeads, headDim }: AttentionShape): Record<string, Attribute> {
  return {
    ...{ num_heads: int(heads), kv_num_heads: int(kvHeads), scale: float(1 / Math.sqrt(headDim)) },
    ...{ do_rotary: int(1), rotary_interleaved: int(0) },
  };
}

function halfTable(count: number, of: (x: number) => number): Uint8Array {
  return new Uint8Array(Uint16Array.from({ length: count }, (_, i) => toFloat16Bits(of(i * 0.37))).buffer);
}
