// Builds LLaMA-shaped decoders as ONNX: RMSNorm, RoPE (half-split), grouped-query attention, SwiGLU, with a KV cache.
import { float, ints, int } from '../graph-rewrite/ir/attributes.js';
import { Model } from '../graph-rewrite/ir/model.js';
import type { Value } from '../graph-rewrite/ir/value.js';
import { tensorOf } from '../graph-rewrite/ir/tensor.js';
import { decomposedAttention } from './attention-decomposed.js';
import { groupQueryAttention } from './attention-gqa.js';
import { multiHeadAttention, onnxAttention } from './attention-operators.js';
import { GraphBuilder } from './graph-builder.js';
import { checkConfig, type LlamaConfig } from './llama-config.js';
import { plain, type FloatType, type WeightSource } from './weights.js';

/**
 * `gqa`: com.microsoft GroupQueryAttention with packed q/k/v and fused norms, as the onnxruntime-genai builder does; fast.
 * `mha`: com.microsoft MultiHeadAttention and fused norms, as that builder does where it has no GroupQueryAttention.
 * `onnx`: the Attention and RotaryEmbedding of opset 23.
 * `decomposed`: standard operators only, opset 18, as PyTorch exports.
 */
export const attentionForms = ['gqa', 'mha', 'onnx', 'decomposed'] as const;
export type AttentionForm = (typeof attentionForms)[number];

const opsets: Record<AttentionForm, Record<string, number>> = {
  gqa: { '': 21, 'com.microsoft': 1 },
  mha: { '': 21, 'com.microsoft': 1 },
  onnx: { '': 23 },
  decomposed: { '': 18 },
};

export interface LlamaOptions {
  dtype?: FloatType;
  attention?: AttentionForm;
}

/** One layer's attention: from normalized x [batch, sequence, hidden] and the cache to the input of o_proj and the longer cache. */
export type Attention = (
  layer: number,
  x: Value,
  past: { key: Value; value: Value },
) => { y: Value; key: Value; value: Value };

/**
 * Builds a decoder. Inputs: input_ids, attention_mask (over past and new tokens), position_ids (not for gqa),
 * past_key_values.N.key/value [batch, kv heads, past, head dim]; outputs: logits for every position, present.N.key/value.
 * Weights stay where they are until the model is saved.
 * @throws LowbitError for impossible shapes and missing weights
 */
export function buildLlama(config: LlamaConfig, weights: WeightSource, options: LlamaOptions = {}): Model {
  checkConfig(config);
  const dtype = options.dtype ?? 'float32';
  const form = options.attention ?? 'gqa';
  const fused = 'com.microsoft' in opsets[form];
  const model = new Model({
    irVersion: 10,
    opsetImports: Object.entries(opsets[form]),
    producerName: 'ort-lowbit',
    graphName: 'llama',
  });
  const builder = new GraphBuilder(model.graph, config, weights, dtype);
  const ids = builder.input('input_ids', 'int64', ['batch', 'sequence']);
  const mask = builder.input('attention_mask', 'int64', ['batch', 'total']);
  const prepare = {
    gqa: groupQueryAttention,
    mha: multiHeadAttention,
    onnx: onnxAttention,
    decomposed: decomposedAttention,
  };
  const attention = prepare[form](builder, ids, mask);

  const embedding = weights('model.embed_tokens.weight', [config.vocab, config.hidden]);
  const table = builder.graph.addInitializer('model.embed_tokens.weight', plain(embedding, dtype));
  let residual = builder.op('Gather', '/model/embed_tokens/Gather', [table, ids]);
  let branch: Value | undefined;
  const present: Value[] = [];
  const norm = (name: string) => {
    const result = (fused ? fusedNorm : decomposedNorm)(builder, name, residual, branch);
    residual = result.sum;
    return result.y;
  };
  for (let layer = 0; layer < config.layers; layer++) {
    const at = `model.layers.${layer}`;
    const past = cacheInputs(builder, layer);
    const attended = attention(layer, norm(`${at}.input_layernorm`), past);
    present.push(attended.key, attended.value);
    branch = builder.linear([`${at}.self_attn.o_proj`], attended.y, [config.hidden], config.heads * config.headDim);
    branch = mlp(builder, at, norm(`${at}.post_attention_layernorm`));
  }
  const last = norm('model.norm');
  const logits = config.tied
    ? builder.op('MatMul', '/lm_head/MatMul', [last, turned(builder, table)], {}, 'logits')
    : builder.linear(['lm_head'], last, [config.vocab], config.hidden, 'logits');
  builder.output(logits, ['batch', 'sequence', config.vocab]);
  for (const value of present) builder.output(value, ['batch', config.kvHeads, 'total', config.headDim]);
  return model;
}

function turned(builder: GraphBuilder, table: Value): Value {
  return builder.op('Transpose', '/lm_head/Transpose', [table], { perm: ints([1, 0]) });
}

function cacheInputs(builder: GraphBuilder, layer: number): { key: Value; value: Value } {
  const { kvHeads, headDim } = builder.config;
  const input = (part: string) =>
    builder.input(`past_key_values.${layer}.${part}`, builder.dtype, ['batch', kvHeads, 'past', headDim]);
  return { key: input('key'), value: input('value') };
}

function mlp(builder: GraphBuilder, at: string, x: Value): Value {
  const { hidden, mlp: width } = builder.config;
  const path = `/${at.replaceAll('.', '/')}/mlp`;
  const gate = builder.linear([`${at}.mlp.gate_proj`], x, [width], hidden);
  const up = builder.linear([`${at}.mlp.up_proj`], x, [width], hidden);
  const sigmoid = builder.op('Sigmoid', `${path}/act_fn/Sigmoid`, [gate]);
  const silu = builder.op('Mul', `${path}/act_fn/Mul`, [gate, sigmoid]);
  return builder.linear([`${at}.mlp.down_proj`], builder.op('Mul', `${path}/Mul`, [silu, up]), [hidden], width);
}

interface Normalized {
  y: Value;
  /** residual + branch. */
  sum: Value;
}

function fusedNorm(builder: GraphBuilder, name: string, residual: Value, branch: Value | undefined): Normalized {
  const path = `/${name.replaceAll('.', '/')}`;
  const weight = builder.vector(`${name}.weight`);
  const epsilon = float(builder.config.epsilon);
  if (!branch) {
    const attributes = { epsilon, axis: int(-1), stash_type: int(1) };
    return {
      y: builder.op('SimplifiedLayerNormalization', `${path}/LayerNorm`, [residual, weight], attributes),
      sum: residual,
    };
  }
  const node = builder.graph.addNode({
    opType: 'SkipSimplifiedLayerNormalization',
    domain: 'com.microsoft',
    name: `${path}/SkipLayerNorm`,
    inputs: [residual, branch, weight],
    outputs: [`${path}/output_0`, undefined, undefined, `${path}/output_3`],
    attributes: { epsilon },
  });
  return { y: node.output(0)!, sum: node.output(3)! };
}

/** x · 1/sqrt(mean(x²) + ε) · weight, in float32 whatever the model's type: squares of float16 overflow early. */
function decomposedNorm(builder: GraphBuilder, name: string, residual: Value, branch: Value | undefined): Normalized {
  const path = `/${name.replaceAll('.', '/')}`;
  const scalar = (value: number) => tensorOf(Float32Array.of(value), []);
  const sum = branch ? builder.op('Add', `${path}/residual/Add`, [residual, branch]) : residual;
  const half = builder.dtype === 'float16';
  const wide = half ? builder.op('Cast', `${path}/Cast`, [sum], { to: int(1) }) : sum;
  const square = builder.op('Pow', `${path}/Pow`, [wide, builder.constant('two', scalar(2))]);
  const axes = builder.constant('axes_last', tensorOf([-1]));
  const mean = builder.op('ReduceMean', `${path}/ReduceMean`, [square, axes], { keepdims: int(1) });
  const shifted = builder.op('Add', `${path}/Add`, [mean, builder.constant('epsilon', scalar(builder.config.epsilon))]);
  const root = builder.op('Sqrt', `${path}/Sqrt`, [shifted]);
  const inverse = builder.op('Reciprocal', `${path}/Reciprocal`, [root]);
  const normalized = builder.op('Mul', `${path}/Mul`, [wide, inverse]);
  const narrow = half ? builder.op('Cast', `${path}/Cast_1`, [normalized], { to: int(10) }) : normalized;
  return { y: builder.op('Mul', `${path}/Mul_1`, [builder.vector(`${name}.weight`), narrow]), sum };
}
