export * from './feeds.js';
export * from './rank.js';
export * from './run.js';
export type { ChannelStats } from './stats.js';
export * from './store.js';
