/** The parts that the contracts of all row operators share. Row operators quantize rows; `ops/formats/README.md` says how. */
import { activationNames } from '../common/activations.js';
import { activationFormats } from '../formats/formats.js';

export const reorderIndex = {
  type: 'int32',
  optional: true,
  dims: '[K]',
  about: 'channel i of a quantized row is channel reorder_index[i]; every entry in 0 … K-1',
} as const;

export const quantizedOutputs = {
  q: { type: 'int8', dims: '[..., K]', about: 'codes, one byte each whatever their range; outlier channels last' },
  scale: { type: 'float32', dims: '[..., S]', about: 'scales of the body groups, then that of the outliers' },
} as const;

export const formatAttributes = {
  format: { type: 'string', oneOf: activationFormats, about: 'codes of the body; outliers are s8' },
  group_size: { type: 'int', default: 0, about: 'G: channels of the body that share a scale, 0 for all of it' },
  outlier_channels: { type: 'int', default: 0, about: 'O: the last channels, one s8 segment of their own' },
  clip: {
    type: 'float',
    default: 1,
    about: 'fraction of the largest magnitude of a body group that gets the last code',
  },
} as const;

export const activationAttribute = {
  type: 'string',
  oneOf: activationNames,
  about: 'the function; gelu is the exact one, gelu_tanh its tanh approximation',
} as const;

export const formatRequirements = [
  '0 <= O < K',
  'G is 0, or a multiple of 16 that divides K-O',
  '0.01 <= clip <= 1',
  'S = (G ? (K-O)/G : 1) + (O > 0 ? 1 : 0)',
] as const;
