import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/** The plainest 4-bit scheme; a lower bound that shows what groups and outlier channels are for. */
export const w4a4 = defineRecipe({
  name: 'w4a4',
  about: '4-bit weights per output channel, 4-bit activations per token',
  version: 1,
  weight: { format: 's4', groupSize: 0, clip: 1, channelGroup: 1, rounding: 'rtn' },
  activation: { format: 's4', groupSize: 0, clip: 1 },
  outliers: null,
  oReorder: 'none',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
