/** Decoding with a text model: what its inputs are, the loop, the cache, the choice of tokens. Nothing here loads native code. */
export * from './decoding.js';
export * from './facts.js';
export * from './feeds.js';
export * from './generate.js';
export * from './ids.js';
export * from './layout.js';
export * from './logits.js';
export * from './prompts.js';
export * from './sample.js';
export * from './scores.js';
export * from './session.js';
export * from './text-model.js';
export * from './text-session.js';
