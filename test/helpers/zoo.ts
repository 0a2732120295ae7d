/** The exported graphs of models/zoo: names, feeds, runs. */
import { readdirSync } from 'node:fs';
import { join } from 'node:path';
import { Tensor } from 'onnxruntime-common';
import type { Model } from '../../graph-rewrite/ir/index.js';
import type { Feeds } from '../../graph-rewrite/lm/session.js';
import { zooFolder } from './files.js';
import { Random } from './random.js';

/** Graph names, without `.onnx`. */
export const zooNames: readonly string[] = readdirSync(zooFolder)
  .filter((file) => file.endsWith('.onnx'))
  .map((file) => file.replace(/\.onnx$/, ''))
  .sort();

export const zooPath = (name: string): string => join(zooFolder, `${name}.onnx`);

/** Sizes that symbolic dimensions get, by what the input is. */
export interface FeedSizes {
  readonly batch?: number;
  readonly tokens?: number;
  readonly past?: number;
}

/** Random tokens, a random cache of `past` tokens (for models that take one), no padding. */
export function zooFeeds(model: Model, { batch = 2, tokens = 7, past = 3 }: FeedSizes = {}): Feeds {
  const random = new Random('zoo feeds');
  const cached = model.graph.inputs.some((input) => input.name.startsWith('past_key_values')) ? past : 0;
  const feeds: Feeds = {};
  for (const { name, dtype, shape } of model.graph.inputs) {
    if (name.startsWith('past_key_values')) {
      const dims = [batch, Number(shape![1]), cached, Number(shape![3])];
      const values = random.normals(
        'float32',
        dims.reduce((all, dim) => all * dim, 1),
      );
      feeds[name] = new Tensor('float32', values, dims);
      continue;
    }
    if (dtype !== 'int64') throw new Error(`no feed for input ${name} of type ${dtype}`);
    const ids = (count: number, value: (i: number) => number) =>
      new Tensor(
        'int64',
        BigInt64Array.from({ length: batch * count }, (_, i) => BigInt(value(i % count))),
        [batch, count],
      );
    if (name === 'attention_mask') feeds[name] = ids(cached + tokens, () => 1);
    else if (name === 'position_ids') feeds[name] = ids(tokens, (i) => cached + i);
    else feeds[name] = ids(tokens, () => random.int(0, 255));
  }
  return feeds;
}

/** Signal to noise in decibels: how near `actual` is to `expected`. */
export function sqnr(expected: ArrayLike<number>, actual: ArrayLike<number>): number {
  let signal = 0;
  let noise = 0;
  for (let i = 0; i < expected.length; i++) {
    signal += expected[i]! ** 2;
    noise += (expected[i]! - actual[i]!) ** 2;
  }
  return 10 * Math.log10(signal / noise);
}
