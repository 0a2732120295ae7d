import { defineOp } from '../define-op.js';
import { activationFormats } from '../formats/formats.js';
import { formatAttributes, quantizedOutputs, reorderIndex } from '../rows/contract.js';

const codes = { type: 'uint8', dims: '[B, kv_num_heads, T, head_dim*bits/8]' } as const;
const parameters = { type: 'float16', dims: '[B, kv_num_heads, T, 2]' } as const;

/**
 * Attention over a key and value cache in 4 or 8 bits. Arithmetic and storage of the cache: `ops/formats/README.md`; masks,
 * positions and cache forms: the README of this folder.
 */
export const QuantKvAttention = defineOp({
  type: 'QuantKvAttention',
  since: 1,
  about: 'Quantizes new keys and values, appends them to the cache, and attends over the quantized cache',
  inputs: {
    q: {
      type: 'T',
      dims: '[B, S, num_heads*head_dim] or, without k and v, [B, S, (num_heads + 2*kv_num_heads)*head_dim]',
      about: 'new queries; or queries, keys and values side by side',
    },
    k: { type: 'T', optional: true, dims: '[B, S, kv_num_heads*head_dim]', about: 'new keys' },
    v: { type: 'T', optional: true, dims: '[B, S, kv_num_heads*head_dim]', about: 'new values' },
    past_k: { ...codes, about: 'key codes of earlier tokens' },
    past_k_param: { ...parameters, about: 'their scale and min' },
    past_v: { ...codes, about: 'value codes of earlier tokens' },
    past_v_param: { ...parameters, about: 'their scale and min' },
    lengths: {
      type: 'int32',
      optional: true,
      dims: '[B]',
      about: 'tokens of each sequence, new ones included; T + S for all when skipped (growing form only)',
    },
    cos: { type: 'T', optional: true, dims: '[positions, R]', about: 'RoPE table, one row a position' },
    sin: { type: 'T', optional: true, dims: '[positions, R]', about: 'likewise' },
    mask: {
      type: 'T',
      optional: true,
      dims: '[B or 1, num_heads or 1, S or 1, at least the longest sequence]',
      about: 'added to the scores',
    },
    reorder_index: { ...reorderIndex, dims: '[num_heads*head_dim]' },
  },
  outputs: {
    y: {
      type: 'T',
      optional: true,
      dims: '[B, S, num_heads*head_dim]',
      about: 'attention output; 0 for queries beyond their sequence',
    },
    present_k: { ...codes, about: 'T + S tokens (growing), or past_k’s shape (in place)' },
    present_k_param: { ...parameters, about: 'likewise' },
    present_v: { ...codes, about: 'likewise' },
    present_v_param: { ...parameters, about: 'likewise' },
    q: { ...quantizedOutputs.q, optional: true, dims: '[B, S, num_heads*head_dim]' },
    scale: { ...quantizedOutputs.scale, optional: true, dims: '[B, S, groups]' },
  },
  attributes: {
    num_heads: { type: 'int', about: 'query heads; a multiple of kv_num_heads' },
    kv_num_heads: { type: 'int', about: 'key and value heads' },
    head_dim: { type: 'int', about: 'D: channels of a head; a multiple of 16, at most 512' },
    bits: { type: 'int', default: 4, about: 'of a cache code: 4 or 8' },
    clip: { type: 'float', default: 1, about: 'fraction of a row’s range that its codes span' },
    scale: { type: 'float', default: 0, about: 'of the scores; 0 for 1/sqrt(head_dim)' },
    softcap: {
      type: 'float',
      default: 0,
      about: 'scores become softcap*tanh(score/softcap) before the mask; 0 for none',
    },
    causal: { type: 'int', default: 1, about: '1: a query sees keys up to its own position; 0: all of the sequence' },
    window: { type: 'int', default: 0, about: 'a query sees this many last keys, its own included; 0 for all' },
    rotary: { type: 'string', default: 'none', oneOf: ['none', 'half', 'interleaved'], about: 'RoPE done here' },
    kv_rope: {
      type: 'string',
      default: 'pre',
      oneOf: ['pre', 'post'],
      about: 'keys are quantized before RoPE and rotated when they are read, or after RoPE',
    },
    in_place: { type: 'int', default: 0, about: '1: past is a buffer of the capacity T that present continues' },
    q_format: {
      type: 'string',
      default: 'none',
      oneOf: [...activationFormats, 'none'],
      about: 'codes of y, as Quantize behind this node would make them; none: no outputs q and scale',
    },
    q_group_size: formatAttributes.group_size,
    q_clip: formatAttributes.clip,
    q_outlier_channels: formatAttributes.outlier_channels,
  },
  requires: [
    'k and v are both given or both skipped',
    'cos and sin are given if rotary is not none; 2R <= head_dim; as many rows as the longest sequence',
    'lengths is given if in_place is 1; 0 <= lengths <= T + S, or T in place',
    '0.01 <= clip <= 1',
    'q and scale are there unless q_format is none, y is there if it is; else as with Quantize',
  ],
});
