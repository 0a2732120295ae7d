import { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import { stepFeeds } from '../../native/js/lm/feeds.js';
import { checkIds } from '../../native/js/lm/ids.js';
import { describeTextModel } from '../../native/js/lm/text-model.js';
import type { Model } from '../ir/model.js';
import { modelIo, textFacts } from '../lm/facts.js';
import type { NpyArray } from '../lm/npy.js';
import { readNpz } from '../lm/npz.js';
import type { Feeds, ModelIo } from '../lm/session.js';
import { readText } from '../lm/text-file.js';
import type { TextTokenizer } from '../lm/tokenizer.js';
import { cutWindows, defaultLength, readBytes, windowLength } from '../lm/tokens.js';

/** Feeds with their number. */
export interface FeedList extends Iterable<Feeds> {
  readonly count: number;
}

export interface WindowOptions {
  /** Tokens a window. Default {@link defaultWindows}, or what the model's position table takes. */
  readonly length?: number;
  /** Windows at most. */
  readonly count?: number;
  /** Name of the source, for errors. */
  readonly at: string;
}

/** 32,768 tokens: enough that more text changes the order of channels only among equals. */
export const defaultWindows = { length: defaultLength, count: 64 } as const;

/**
 * Feeds from token ids: windows that do not overlap, spread evenly over the whole text, each from an empty cache.
 * @throws input error for ids beyond the vocabulary, or fewer ids than a window; usage error for windows that the model has no positions for
 */
export function tokenFeeds(model: Model, ids: Int32Array, options: WindowOptions): FeedList {
  const { count = defaultWindows.count, at } = options;
  const facts = textFacts(model);
  const text = describeTextModel(modelIo(model), facts);
  const length = windowLength(facts, options.length);
  const all = cutWindows(ids, { length, count: Infinity, at });
  const chosen = Math.min(count, all.length);
  const windows = Array.from({ length: chosen }, (_, i) => all[Math.floor((i * all.length) / chosen)]!);
  for (const window of windows) checkIds(window, text.vocabulary, at);
  return feedList(windows, (window) => stepFeeds(text, window));
}

/** Feeds from a text file, see {@link tokenFeeds}. Of a long text as much of the beginning is used as surely is enough, see `readText`. */
export function textFeeds(
  model: Model,
  path: string,
  tokenizer: TextTokenizer,
  options: Omit<WindowOptions, 'at'> = {},
): FeedList {
  const text = readText(path, { ...defaultWindows, ...options });
  return tokenFeeds(model, Int32Array.from(tokenizer.encode(text)), { ...options, at: path });
}

/**
 * Feeds recorded by the caller: `.npz` files with one array per model input. With one file, the first axis of each array counts
 * samples, and each sample becomes a run of its own with batch 1; with several files, each file is one run as it is.
 * @throws input error for missing inputs, and types or sample counts that do not fit
 */
export function recordedFeeds(model: Model, paths: readonly string[]): FeedList {
  const io = modelIo(model);
  if (paths.length !== 1) return feedList(paths, (path) => readFeeds(io, path).feeds);
  const [path] = paths as [string];
  const { arrays } = readFeeds(io, path);
  const counts = new Set([...arrays.values()].map((array) => array.shape[0] ?? 0));
  const [count] = counts;
  if (counts.size !== 1 || !count) {
    const found = [...arrays].map(([name, { shape }]) => `${name} [${shape.join(', ')}]`).join(', ');
    throw inputError(path, `holds ${found}, expected arrays with one number of samples as their first axis`);
  }
  return feedList(
    Array.from({ length: count }, (_, i) => i),
    (i) => Object.fromEntries([...arrays].map(([name, array]) => [name, toTensor(sampleOf(array, i))])),
  );
}

function feedList<T>(items: readonly T[], make: (item: T) => Feeds): FeedList {
  return {
    count: items.length,
    *[Symbol.iterator]() {
      for (const item of items) yield make(item);
    },
  };
}

function readFeeds(io: ModelIo, path: string): { arrays: Map<string, NpyArray>; feeds: Feeds } {
  const arrays = readNpz(readBytes(path, 'the recorded feeds'), path);
  const feeds: Feeds = {};
  for (const input of io.inputMetadata) {
    const array = arrays.get(input.name);
    const names = [...arrays.keys()].join(', ') || 'nothing';
    if (!array)
      throw inputError(path, `holds ${names}, expected an array for every input: ${io.inputNames.join(', ')}`);
    if (input.isTensor && input.type !== array.dtype)
      throw inputError(path, `"${input.name}" is ${array.dtype}, the model takes ${input.type}`);
    feeds[input.name] = toTensor(array);
  }
  for (const name of arrays.keys()) {
    if (!(name in feeds))
      throw inputError(path, `holds "${name}", expected only the inputs ${io.inputNames.join(', ')}`);
  }
  return { arrays, feeds };
}

function sampleOf({ dtype, shape, data }: NpyArray, sample: number): NpyArray {
  const size = shape.slice(1).reduce((all, each) => all * each, 1);
  return { dtype, shape: [1, ...shape.slice(1)], data: data.slice(sample * size, (sample + 1) * size) };
}

function toTensor({ dtype, shape, data }: NpyArray): Tensor {
  return new Tensor(dtype, data as Float32Array, shape);
}
