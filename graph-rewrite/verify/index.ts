export { compareModels } from './compare.js';
export type { CompareOptions, Comparison, LayerError } from './compare.js';
export * from './metrics.js';
