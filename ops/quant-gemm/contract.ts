import { defineOp } from '../define-op.js';
import { activationFormats, weightFormats } from '../formats/formats.js';

/**
 * The low-bit matrix product. Arithmetic and storage: `ops/formats/README.md`; kernels and numbers: the README of this folder.
 *
 * `y[m,n] = bias[n] + residual[m,n] + Σ_s float(Σ_{k∈s} a[m,k]·b[n,k]) · a_scale[m,s] · b_scale[n,s] + lorc[m,n]`
 */
export const QuantGemm = defineOp({
  type: 'QuantGemm',
  since: 1,
  about: 'Product of quantized (or float) rows with low-bit weights, scaled by group; adds bias and residual',
  inputs: {
    a: {
      type: 'int8|T',
      dims: '[..., K]',
      about: 'activation codes, outlier channels last; floats for weight-only and s8_dynamic',
    },
    a_scale: {
      type: 'float32',
      optional: true,
      dims: '[..., S]',
      about: 'activation scales, the outlier scale last; skipped where a holds floats',
    },
    b: {
      type: 'uint8|int8',
      dims: '[N, ceil((K-O)/2)] or [N, K-O]',
      about: 'weights of 4 bits, two a byte, the even k in the low nibble; or of 8 bits',
    },
    b_scale: { type: 'float16', dims: '[N, (K-O)/G]', about: 'weight scales; one a row if group_size is 0' },
    b_outlier: { type: 'int8', optional: true, dims: '[N, O]', about: 's8 weights of the outlier channels' },
    b_outlier_scale: { type: 'float16', optional: true, dims: '[N]', about: 'their scales' },
    bias: { type: 'T', dims: '[N] or [0]', about: 'an empty one for none: it fixes the type of y' },
    residual: { type: 'T', optional: true, dims: '[..., N]', about: 'added to the product' },
    lorc_down: {
      type: 'int8',
      optional: true,
      dims: '[P·R, K]',
      about: 'low-rank term, activations to R values: P codes a value, first ones of all rows, then second ones',
    },
    lorc_down_scale: { type: 'float16', optional: true, dims: '[R]', about: 'its scales' },
    lorc_up: { type: 'int8', optional: true, dims: '[N, P·R]', about: 'those R values to outputs, likewise in a row' },
    lorc_up_scale: { type: 'float16', optional: true, dims: '[N]', about: 'its scales' },
  },
  outputs: { y: { type: 'T', dims: '[..., N]', about: 'the product' } },
  attributes: {
    K: { type: 'int', about: 'channels of a row of a, outliers included; at most 131072' },
    N: { type: 'int', about: 'output channels' },
    weight_format: { type: 'string', oneOf: weightFormats, about: 'codes of the weight body' },
    group_size: { type: 'int', default: 0, about: 'G: channels sharing a weight scale, 0 for all of the body' },
    scale_ratios: {
      type: 'string',
      oneOf: ['any', 'powers_of_two'],
      default: 'any',
      about: 'powers_of_two: the scales of a row of b are its largest one times 2^-k with k = 0 … 13',
    },
    a_format: {
      type: 'string',
      oneOf: [...activationFormats, 'none', 's8_dynamic'],
      about: 'codes of the activation body; none: floats; s8_dynamic: floats that become s8 codes inside',
    },
    a_group_size: { type: 'int', default: 0, about: 'channels sharing an activation scale, 0 for all of the body' },
    outlier_channels: { type: 'int', default: 0, about: 'O: trailing channels in s8 with scales of their own' },
    threshold: {
      type: 'float',
      default: 0,
      about: 's8_dynamic: columns of a that reach it in some row are multiplied as floats; 0: none',
    },
  },
  requires: [
    '0 <= O < K <= 131072',
    'G is 0, or a multiple of 16 that divides K-O; the same for a_group_size',
    'a_group_size equals group_size when neither is 0',
    'b_scale keeps scale_ratios; on the CPU other scales are refused, on CUDA they make y NaN where a kernel relies on it',
    'a_format none has no outliers and no a_group_size',
    'a_format s8_dynamic has weight_format s8, no groups, no outliers and no lorc inputs; only it has a threshold',
    'all lorc inputs or none; 1 <= R <= 256, P is 1 or 2',
    'S = (a_group_size ? (K-O)/a_group_size : 1) + (O > 0 ? 1 : 0)',
  ],
});
