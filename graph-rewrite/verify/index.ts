export { quantizedFeeds } from './cache-feeds.js';
export { compareModels } from './compare.js';
export { errorSources, type ErrorSources } from './error-sources.js';
export type { CompareOptions, Comparison, LayerError } from './compare.js';
export * from './metrics.js';
