/** Channel orders: which input channels are outliers, and in which order the rest comes. */
import { ascendingOrder, channelRank } from '../calibrate/rank.js';
import type { ChannelStats } from '../calibrate/stats.js';
import type { OutlierSettings } from '../recipes/recipe.js';
import { clusterOrder } from './clusters.js';

/** The order of an input's channels, over all inputs that share it. */
export function channelOrder(all: readonly ChannelStats[], { order, rankBy }: OutlierSettings): Int32Array {
  if (order === 'ascending') return ascendingOrder(rank(all, rankBy));
  const [first, ...rest] = all as [ChannelStats, ...ChannelStats[]];
  const min = first.min.map((value, k) => Math.min(value, ...rest.map((stats) => stats.min[k]!)));
  const max = first.max.map((value, k) => Math.max(value, ...rest.map((stats) => stats.max[k]!)));
  return clusterOrder(min, max);
}

/** Importance of each channel by the recipe's statistic, over all inputs that share an order (by rows, the largest for abs-max). */
export function rank(all: readonly ChannelStats[], rankBy: OutlierSettings['rankBy']): Float64Array {
  const [first] = all;
  if (all.length === 1 && first) return channelRank(first, rankBy);
  const result = new Float64Array(first!.channels);
  const rows = all.reduce((sum, stats) => sum + stats.rows, 0) || 1;
  for (const stats of all) {
    channelRank(stats, rankBy).forEach((value, channel) => {
      result[channel] =
        rankBy === 'abs-max' ? Math.max(result[channel]!, value) : result[channel]! + (value * stats.rows) / rows;
    });
  }
  return result;
}

/**
 * An order that stays inside heads, equal for all query heads that share a key/value head (their channels come from the same rows of v).
 * @param importance of the channels of the attention output, `heads · headSize`
 * @returns the order of those channels, and the order of the value rows that produces it
 */
export function headOrder(
  importance: Float64Array,
  heads: number,
  kvHeads: number,
  headSize: number,
): { columns: Int32Array; values: Int32Array } {
  const shared = heads / kvHeads;
  const columns = new Int32Array(heads * headSize);
  const values = new Int32Array(kvHeads * headSize);
  for (let kv = 0; kv < kvHeads; kv++) {
    const sum = new Float64Array(headSize);
    for (let head = kv * shared; head < (kv + 1) * shared; head++)
      for (let i = 0; i < headSize; i++) sum[i]! += importance[head * headSize + i]!;
    ascendingOrder(sum).forEach((from, to) => {
      values[kv * headSize + to] = kv * headSize + from;
      for (let head = kv * shared; head < (kv + 1) * shared; head++)
        columns[head * headSize + to] = head * headSize + from;
    });
  }
  return { columns, values };
}

/** An order of `total` rows that permutes `part` at `start` and leaves the others. */
export function embed(part: Int32Array, start: number, total: number): Int32Array {
  const order = Int32Array.from({ length: total }, (_, i) => i);
  part.forEach((from, to) => (order[start + to] = start + from));
  return order;
}
