import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/**
 * Atom (arXiv 2310.19102) without its KV cache: clip ratios, group, row pairs and outlier count are the paper's. Its code rounds
 * channels with `gptq.order=atom` and takes Hessians with `gptq.hessian=sequential`; the defaults lose less.
 */
export const atomW4a4 = defineRecipe({
  name: 'atom-w4a4',
  about: '4-bit weights (GPTQ) and activations in groups of 128, the 128 strongest input channels in 8 bits, clipped',
  version: 1,
  weight: { format: 's4', groupSize: 128, clip: 0.85, channelGroup: 2, rounding: 'gptq' },
  activation: { format: 's4', groupSize: 128, clip: 0.9 },
  outliers: { channels: 128, rankBy: 'mean-square', order: 'ascending' },
  oReorder: 'global',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
