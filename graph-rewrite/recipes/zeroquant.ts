import { defineRecipe } from './define.js';
import { keepLmHead, type Recipe } from './recipe.js';

/** ZeroQuant: group-wise weights rounded to nearest, activations dynamic per token. Its groups are 128 consecutive input channels here. */
const zeroQuant = (name: string, about: string, weight: 's4' | 's8', lorc: Pick<Recipe, 'lorc'>): Recipe =>
  defineRecipe({
    name,
    about,
    version: 1,
    weight: { format: weight, groupSize: 128, clip: 1, channelGroup: 1, rounding: 'rtn' },
    activation: { format: 's8', groupSize: 0, clip: 1 },
    outliers: null,
    ...lorc,
    oReorder: 'none',
    merge: { qkv: 'auto', gateUp: true },
    overrides: [keepLmHead],
  });

/** ZeroQuant (arXiv 2206.01861), W8A8. */
export const zeroQuantW8a8 = zeroQuant(
  'zeroquant-w8a8',
  '8-bit weights in groups of 128, 8-bit activations per token',
  's8',
  {},
);

/** ZeroQuant-V2 (arXiv 2303.08302), W4A8: with its low-rank compensation of rank 8. */
export const zeroQuantW4a8 = zeroQuant(
  'zeroquant-w4a8',
  '4-bit weights in groups of 128, 8-bit activations per token, the error of the weights in rank 8 added back',
  's4',
  { lorc: { rank: 8 } },
);
