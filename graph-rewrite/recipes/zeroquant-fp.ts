import { defineRecipe } from './define.js';
import { keepLmHead, type Recipe } from './recipe.js';

/** ZeroQuant-FP (arXiv 2307.09782): floats on both sides, dynamic scales per token, group scales for weights, GPTQ. */
const zeroQuantFp = (name: string, about: string, format: Recipe['weight']['format']): Recipe =>
  defineRecipe({
    name,
    about,
    version: 1,
    weight: { format, groupSize: 128, clip: 1, channelGroup: 1, rounding: 'gptq' },
    activation: { format: 'e4m3', groupSize: 0, clip: 1 },
    outliers: null,
    oReorder: 'none',
    merge: { qkv: 'auto', gateUp: true },
    overrides: [keepLmHead],
  });

export const zeroQuantFpW4a8 = zeroQuantFp(
  'zeroquant-fp-w4a8',
  '4-bit float weights (e2m1) in groups of 128, 8-bit float activations (e4m3) per token',
  'e2m1',
);

export const zeroQuantFpW8a8 = zeroQuantFp(
  'zeroquant-fp-w8a8',
  '8-bit float weights (e4m3) in groups of 128, 8-bit float activations (e4m3) per token',
  'e4m3',
);
