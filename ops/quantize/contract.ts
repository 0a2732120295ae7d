import { defineOp } from '../define-op.js';
import { formatAttributes, formatRequirements, quantizedOutputs, reorderIndex } from '../rows/contract.js';

/** Gather and quantize rows: in front of a linear layer whose producer cannot do it. */
export const Quantize = defineOp({
  type: 'Quantize',
  since: 1,
  about: 'Gathers the channels of each row and quantizes them, one scale a group',
  inputs: {
    x: { type: 'T', dims: '[..., K]', about: 'rows of floats' },
    reorder_index: reorderIndex,
  },
  outputs: quantizedOutputs,
  attributes: formatAttributes,
  requires: formatRequirements,
});
