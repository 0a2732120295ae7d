import { atomW4a4 } from './atom-w4a4.js';
import { defineRecipe } from './define.js';

/** Atom with its 4-bit cache: keys before RoPE, a scale and a minimum for each token and head. */
export const atomW4a4kv4 = defineRecipe({
  ...atomW4a4,
  name: 'atom-w4a4kv4',
  about: `${atomW4a4.about}; a 4-bit key and value cache`,
  kv: { bits: 4, rope: 'pre', clip: 1 },
});
