import { defineRecipe } from './define.js';
import { keepLmHead } from './recipe.js';

/**
 * LLM.int8() (arXiv 2208.07339): vector-wise INT8, except for the input channels where an activation reaches 6. These are found at run
 * time and multiplied in float with the stored 8-bit weights, as bitsandbytes does when it keeps no other copy of them.
 */
export const llmInt8 = defineRecipe({
  name: 'llm-int8',
  about: '8-bit weights per output channel, 8-bit activations per token, channels that reach 6 at run time in float',
  version: 1,
  weight: { format: 's8', groupSize: 0, clip: 1, channelGroup: 1, rounding: 'rtn' },
  activation: { format: 's8', groupSize: 0, clip: 1, threshold: 6 },
  outliers: null,
  oReorder: 'none',
  merge: { qkv: 'auto', gateUp: true },
  overrides: [keepLmHead],
});
