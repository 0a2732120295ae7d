import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/**
 * SmoothQuant (arXiv 2211.10438) in its most exact form, O1: weights per output channel, activations dynamic per token. alpha 0.5 is the
 * paper's; its LLaMA and Mistral models take 0.8 … 0.9, and `smooth.alpha=search` looks for the best. As in the paper only the inputs
 * that come from norms are smoothed; `smooth.at=all` takes those of o_proj and down_proj too.
 */
export const smoothQuantW8a8 = defineRecipe({
  name: 'smoothquant-w8a8',
  about: '8-bit weights per output channel, 8-bit activations per token, outliers moved into the weights',
  version: 1,
  weight: { format: 's8', groupSize: 0, clip: 1, channelGroup: 1, rounding: 'rtn' },
  activation: { format: 's8', groupSize: 0, clip: 1 },
  outliers: null,
  smooth: { alpha: 0.5, at: 'norms' },
  oReorder: 'none',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
