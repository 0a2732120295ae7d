/** Made-up calibration statistics: any order must leave a model's function unchanged, so random ones test the most. */
import type { Analysis } from '../../graph-rewrite/analyze/index.js';
import type { ChannelStats } from '../../graph-rewrite/calibrate/index.js';
import { Random } from './random.js';

export function randomStats(analysis: Analysis): Map<string, ChannelStats> {
  const random = new Random('channel statistics');
  return new Map(
    analysis.inputs.map(({ input, K }) => {
      const values = () => Float64Array.from({ length: K }, () => random.next());
      const stats = { inputValue: input.name, channels: K, rows: 100, meanSquare: values(), absMean: values() };
      const absMax = Float32Array.from(values());
      return [input.name, { ...stats, absMax, min: absMax.map((value) => -value), max: absMax }];
    }),
  );
}
