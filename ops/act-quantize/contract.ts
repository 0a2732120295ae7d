import { defineOp } from '../define-op.js';
import { activationAttribute, formatAttributes, formatRequirements, quantizedOutputs } from '../rows/contract.js';

/** The activation of a plain MLP with the quantization of its second linear layer. */
export const ActQuantize = defineOp({
  type: 'ActQuantize',
  since: 1,
  about: 'act(x), quantized',
  inputs: { x: { type: 'T', dims: '[..., K]', about: 'rows of floats' } },
  outputs: quantizedOutputs,
  attributes: { activation: activationAttribute, ...formatAttributes },
  requires: formatRequirements,
});
