import type { ChannelStats } from './stats.js';

/** The statistic that ranks channels: larger means more worth keeping in 8 bits. */
export function channelRank(stats: ChannelStats, rankBy: 'mean-square' | 'abs-mean' | 'abs-max'): Float64Array {
  switch (rankBy) {
    case 'mean-square':
      return stats.meanSquare;
    case 'abs-mean':
      return stats.absMean;
    case 'abs-max':
      return Float64Array.from(stats.absMax);
    default:
      return rankBy satisfies never;
  }
}

/** The order that sorts values ascending; equal ones keep their order. `order[i]` is the index of the i-th smallest. */
export function ascendingOrder(values: Float64Array): Int32Array {
  return Int32Array.from(values.keys()).sort((a, b) => values[a]! - values[b]! || a - b);
}
