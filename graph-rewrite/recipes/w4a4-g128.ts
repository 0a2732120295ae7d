import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/** W4A4 with group scales and nothing for outliers: fits models whose activations have none. */
export const w4a4G128 = defineRecipe({
  name: 'w4a4-g128',
  about: '4-bit weights and activations in groups of 128',
  version: 1,
  weight: { format: 's4', groupSize: 128, clip: 1, channelGroup: 1, rounding: 'rtn' },
  activation: { format: 's4', groupSize: 128, clip: 1 },
  outliers: null,
  oReorder: 'none',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
