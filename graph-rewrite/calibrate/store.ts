import { writeFileSync } from 'node:fs';
import { inputError } from '../../ops/common/errors.js';
import type { NpyArray } from '../lm/npy.js';
import { readNpz, writeNpz } from '../lm/npz.js';
import { readBytes } from '../lm/tokens.js';
import type { ChannelStats } from './stats.js';

const parts = ['rows', 'mean_square', 'min', 'max', 'abs_mean'] as const;

/** Writes statistics as a `.npz` file that numpy reads too: `<value>/mean_square`, `…/min`, `…/max`, `…/abs_mean`, `…/rows`, `…/samples` if there are any. */
export function saveStats(path: string, stats: ReadonlyMap<string, ChannelStats>): void {
  const arrays = new Map<string, NpyArray>();
  for (const [name, { channels, rows, meanSquare, min, max, absMean, samples }] of stats) {
    arrays.set(`${name}/rows`, { dtype: 'float64', shape: [], data: Float64Array.of(rows) });
    arrays.set(`${name}/mean_square`, { dtype: 'float64', shape: [channels], data: meanSquare });
    arrays.set(`${name}/min`, { dtype: 'float32', shape: [channels], data: min });
    arrays.set(`${name}/max`, { dtype: 'float32', shape: [channels], data: max });
    arrays.set(`${name}/abs_mean`, { dtype: 'float64', shape: [channels], data: absMean });
    if (samples)
      arrays.set(`${name}/samples`, { dtype: 'float32', shape: [samples.length / channels, channels], data: samples });
  }
  writeFileSync(path, writeNpz(arrays));
}

/** Reads what {@link saveStats} wrote. @throws input error if the file holds something else */
export function loadStats(path: string): Map<string, ChannelStats> {
  const arrays = readNpz(readBytes(path, 'the statistics'), path);
  const stats = new Map<string, ChannelStats>();
  for (const key of arrays.keys()) {
    if (!key.endsWith('/rows')) continue;
    const name = key.slice(0, -'/rows'.length);
    const [rows, meanSquare, min, max, absMean] = parts.map((part) => arrays.get(`${name}/${part}`)?.data);
    if (!(
      rows instanceof Float64Array &&
      meanSquare instanceof Float64Array &&
      min instanceof Float32Array &&
      max instanceof Float32Array &&
      absMean instanceof Float64Array
    ))
      throw inputError(path, `lacks a part of "${name}", expected ${parts.join(', ')}`);
    const samples = arrays.get(`${name}/samples`)?.data;
    stats.set(name, {
      ...{ inputValue: name, channels: meanSquare.length, rows: rows[0]!, meanSquare, min, max, absMean },
      absMax: max.map((each, c) => Math.max(each, -min[c]!)),
      ...(samples instanceof Float32Array ? { samples } : {}),
    });
  }
  if (stats.size === 0) throw inputError(path, 'holds no statistics, expected a file written by calibration');
  return stats;
}
