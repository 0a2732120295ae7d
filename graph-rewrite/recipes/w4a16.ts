import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/** Weight-only: for decoding, where reading weights is what takes time. */
export const w4a16 = defineRecipe({
  name: 'w4a16',
  about: '4-bit weights in groups of 128, float activations',
  version: 1,
  weight: { format: 's4', groupSize: 128, clip: 1, channelGroup: 1, rounding: 'rtn' },
  activation: { format: 'none', groupSize: 0, clip: 1 },
  outliers: null,
  oReorder: 'none',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
