import { defineOp } from '../define-op.js';
import { formatAttributes, formatRequirements, quantizedOutputs, reorderIndex } from '../rows/contract.js';

/** A norm, its residual add, and the quantization of the linear layers it feeds, in one pass over each row. */
export const NormQuantize = defineOp({
  type: 'NormQuantize',
  since: 1,
  about: 'Adds a residual, normalizes each row over its last dimension, gathers its channels and quantizes them',
  inputs: {
    x: { type: 'T', dims: '[..., K]', about: 'rows of floats' },
    weight: { type: 'T', dims: '[K]', about: 'the norm’s scale, natural channel order' },
    bias: { type: 'T', optional: true, dims: '[K]', about: 'the norm’s shift, natural channel order' },
    reorder_index: reorderIndex,
    residual: { type: 'T', optional: true, dims: '[..., K]', about: 'added to x before the norm' },
  },
  outputs: {
    ...quantizedOutputs,
    sum: { type: 'T', optional: true, dims: '[..., K]', about: 'x + residual' },
    y: { type: 'T', optional: true, dims: '[..., K]', about: 'the norm’s output before gather and quantization' },
  },
  attributes: {
    norm: { type: 'string', oneOf: ['rms', 'layer'], about: 'RMSNorm or LayerNorm' },
    epsilon: { type: 'float', default: 1e-5, about: 'added to the mean square or the variance; 0 or more' },
    ...formatAttributes,
  },
  requires: formatRequirements,
});
