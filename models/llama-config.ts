// The numbers that make a LLaMA-shaped decoder, as Hugging Face's config.json names them.
import { join } from 'node:path';

import { inputError, usageError } from '../ops/common/errors.js';
import { readJson } from '../ops/common/json.js';

export interface LlamaConfig {
  vocab: number;
  hidden: number;
  mlp: number;
  layers: number;
  heads: number;
  kvHeads: number;
  headDim: number;
  maxPositions: number;
  ropeTheta: number;
  epsilon: number;
  /** The embedding is also the output layer. */
  tied: boolean;
}

/** Shapes worth a name; weights are random. */
export const presets: Readonly<Record<string, LlamaConfig>> = {
  tiny: shape(64, 128, 2, 4, 2, 16, 256, true),
  '100m': shape(768, 2048, 12, 12, 4, 64, 8192, true),
  '1b': shape(2048, 5632, 22, 32, 4, 64, 32000, false),
  '7b': shape(4096, 11008, 32, 32, 32, 128, 32000, false),
  '8b': shape(4096, 14336, 32, 32, 8, 128, 128256, false),
};

function shape(
  hidden: number,
  mlp: number,
  layers: number,
  heads: number,
  kvHeads: number,
  headDim: number,
  vocab: number,
  tied: boolean,
): LlamaConfig {
  return {
    vocab,
    hidden,
    mlp,
    layers,
    heads,
    kvHeads,
    headDim,
    maxPositions: 2048,
    ropeTheta: 10000,
    epsilon: 1e-5,
    tied,
  };
}

interface HuggingFaceConfig {
  model_type?: string;
  vocab_size: number;
  hidden_size: number;
  intermediate_size: number;
  num_hidden_layers: number;
  num_attention_heads: number;
  num_key_value_heads?: number;
  head_dim?: number | null;
  max_position_embeddings: number;
  rope_theta?: number;
  rope_scaling?: unknown;
  rms_norm_eps: number;
  tie_word_embeddings?: boolean;
  hidden_act?: string;
  attention_bias?: boolean;
  mlp_bias?: boolean;
}

/**
 * Reads config.json of a model folder.
 * @throws LowbitError 'input' for models that are no plain LLaMA: other activations, biases, scaled RoPE
 */
export function readConfig(folder: string): LlamaConfig {
  const path = join(folder, 'config.json');
  const json = readJson(path, 'the config.json of a model') as HuggingFaceConfig;
  const unsupported = (what: string, found: unknown, expected: string) =>
    inputError(
      path,
      `${what} is ${JSON.stringify(found)}, expected ${expected}`,
      'Export such a model with its own tools.',
    );
  if (json.model_type !== 'llama') throw unsupported('model_type', json.model_type, '"llama"');
  if ((json.hidden_act ?? 'silu') !== 'silu') throw unsupported('hidden_act', json.hidden_act, '"silu"');
  if (json.rope_scaling) throw unsupported('rope_scaling', json.rope_scaling, 'none');
  if (json.attention_bias) throw unsupported('attention_bias', true, 'false');
  if (json.mlp_bias) throw unsupported('mlp_bias', true, 'false');
  return {
    vocab: json.vocab_size,
    hidden: json.hidden_size,
    mlp: json.intermediate_size,
    layers: json.num_hidden_layers,
    heads: json.num_attention_heads,
    kvHeads: json.num_key_value_heads ?? json.num_attention_heads,
    headDim: json.head_dim ?? json.hidden_size / json.num_attention_heads,
    maxPositions: json.max_position_embeddings,
    ropeTheta: json.rope_theta ?? 10000,
    epsilon: json.rms_norm_eps,
    tied: json.tie_word_embeddings ?? false,
  };
}

/** `kvHeads` is `--kv-heads` on the command line. */
export function optionName(name: string): string {
  return `--${name.replace(/[A-Z]/g, (letter) => `-${letter.toLowerCase()}`)}`;
}

/** Throws LowbitError 'usage' if the numbers do not make a model. */
export function checkConfig(config: LlamaConfig): void {
  for (const [name, value] of Object.entries(config)) {
    if (name === 'tied' || name === 'epsilon' || name === 'ropeTheta') continue;
    if (!Number.isInteger(value) || (value as number) < 1)
      throw usageError(optionName(name), `is ${value}, expected a positive integer`);
  }
  if (config.heads % config.kvHeads) {
    throw usageError('--kv-heads', `is ${config.kvHeads}, expected a divisor of the ${config.heads} heads`);
  }
  if (config.headDim % 2) throw usageError('--head-dim', `is ${config.headDim}, expected an even number`);
}
