import { defineRecipe } from './define.js';

/** The cache alone: for long contexts and large batches, where it outweighs the weights. */
export const kv4 = defineRecipe({
  name: 'kv4',
  about: 'a 4-bit key and value cache, float layers',
  version: 1,
  weight: { format: 's4', groupSize: 128, clip: 1, channelGroup: 1, rounding: 'rtn' },
  activation: { format: 'none', groupSize: 0, clip: 1 },
  outliers: null,
  oReorder: 'none',
  merge: { qkv: 'auto', gateUp: true },
  kv: { bits: 4, rope: 'pre', clip: 1 },
  overrides: [{ match: { name: '*' }, keep: 'this recipe is about the cache only' }],
});
