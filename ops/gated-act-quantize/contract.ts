import { defineOp } from '../define-op.js';
import { activationAttribute, formatAttributes, formatRequirements, quantizedOutputs } from '../rows/contract.js';

/** The gated activation of an MLP with the quantization of its down projection. A channel order is folded into gate and up. */
export const GatedActQuantize = defineOp({
  type: 'GatedActQuantize',
  since: 1,
  about: 'act(gate) · up, quantized',
  inputs: {
    gate: { type: 'T', dims: '[..., K], or [..., 2K] without up', about: 'gate rows, or [gate | up] in each row' },
    up: { type: 'T', optional: true, dims: '[..., K]', about: 'the factor' },
  },
  outputs: quantizedOutputs,
  attributes: { activation: activationAttribute, ...formatAttributes },
  requires: formatRequirements,
});
