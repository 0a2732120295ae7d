import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/**
 * RPTQ (arXiv 2304.01089), W4A8: input channels in 32 clusters of similar range, side by side, GPTQ per output channel. The paper's
 * clusters have sizes and static scales with zero points of their own; here groups of 128 channels, cut from the clustered order, have
 * dynamic symmetric scales. docs/recipes.md lists all that differs.
 */
export const rptqW4a8 = defineRecipe({
  name: 'rptq-w4a8',
  about: '4-bit weights per output channel (GPTQ), 8-bit activations in groups of 128 channels of similar range',
  version: 1,
  weight: { format: 's4', groupSize: 0, clip: 1, channelGroup: 1, rounding: 'gptq' },
  activation: { format: 's8', groupSize: 128, clip: 1 },
  outliers: { channels: 0, rankBy: 'abs-max', order: 'range-clusters' },
  oReorder: 'global',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
