import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/** INT8 without smoothing: nearly lossless unless activations have strong outlier channels. */
export const w8a8 = defineRecipe({
  name: 'w8a8',
  about: '8-bit weights per output channel, 8-bit activations per token',
  version: 1,
  weight: { format: 's8', groupSize: 0, clip: 1, channelGroup: 1, rounding: 'rtn' },
  activation: { format: 's8', groupSize: 0, clip: 1 },
  outliers: null,
  oReorder: 'none',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
