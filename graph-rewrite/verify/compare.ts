import type { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import type { Model } from '../ir/model.js';
import type { Value } from '../ir/value.js';
import { floatsOf, readLogits } from '../../native/js/lm/logits.js';
import { describeTextModel } from '../../native/js/lm/text-model.js';
import { modelIo } from '../lm/facts.js';
import { openModel } from '../lm/open.js';
import type { CreateSession, Feeds, ModelSession, OnProgress } from '../lm/session.js';
import { throwIfAborted } from '../lm/session.js';
import { analyze } from '../analyze/index.js';
import { readCaches } from '../passes/cache-metadata.js';
import { quantizedFeeds } from './cache-feeds.js';
import { errorSources, type ErrorSources } from './error-sources.js';
import { exposeValues } from './expose.js';
import { layerPairs } from './layers.js';
import type { LayerPair, LayerPart } from './layers.js';
import { DistributionError, SignalError } from './metrics.js';

export interface CompareOptions {
  /** The float model. */
  readonly reference: Model;
  readonly rewritten: Model;
  /** Feeds of both models, one run each; gone through twice. */
  readonly feeds: Iterable<Feeds>;
  readonly createSession: CreateSession;
  /** How many feeds there are, for progress. */
  readonly total?: number;
  /** Runs that also compare every rewritten layer, the first ones. Default 2; 0 leaves layers out. */
  readonly layerRuns?: number;
  /** Bytes of layer outputs held at once; what goes beyond takes more sessions. Default 256 MiB. */
  readonly layerBytes?: number;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Error of one layer. */
export interface LayerError extends Partial<ErrorSources> {
  readonly site: string;
  /** The product that replaces it. */
  readonly node: string;
  /** Inside the running models: what it adds itself and what it inherits from the layers before. */
  readonly sqnrDb: number;
}

export interface Comparison {
  /** Of the logits. */
  readonly sqnrDb: number;
  /** Nats a token. */
  readonly klDivergence: number;
  readonly top1Agreement: number;
  readonly tokens: number;
  readonly layers: readonly LayerError[];
  /** Rewritten layers in branches that no run took. */
  readonly notRun: number;
}

/** Runs two models on the same feeds and compares their scores, and the output of every rewritten layer that runs. */
export async function compareModels(options: CompareOptions): Promise<Comparison> {
  const { reference, rewritten, layerRuns = 2 } = options;
  const scores = await compareLogits(options);
  const pairs = layerRuns > 0 ? layerPairs(reference, rewritten, analyze(reference).linears) : [];
  const feeds = take(options.feeds, layerRuns);
  const layers: LayerError[] = [];
  const found = batches(pairs, rowsOf(feeds), options.layerBytes ?? 256 * 2 ** 20);
  let done = 0;
  for (const batch of found) {
    layers.push(...(await compareLayers(batch, feeds, options)));
    done += batch.length;
    options.onProgress?.({ stage: 'compare layers', done, total: pairs.length });
  }
  const all = pairs.reduce((sum, { parts }) => sum + parts.length, 0);
  return { ...scores, layers, notRun: all - layers.length };
}

async function compareLogits(options: CompareOptions): Promise<Omit<Comparison, 'layers' | 'notRun'>> {
  const { reference, rewritten, feeds, total = 0, onProgress, signal } = options;
  const logits = describeTextModel(modelIo(reference)).logits;
  if (!rewritten.graph.outputs.some((value) => value.name === logits))
    throw inputError(
      'compare',
      `the second model has no output "${logits}"`,
      'Compare a model with its rewritten form.',
    );
  checkInputs(reference, rewritten);
  const signalError = new SignalError();
  const distribution = new DistributionError();
  let done = 0;
  await withSessions(options, [], [], async (runReference, runTest) => {
    for (const feed of feeds) {
      throwIfAborted(signal, 'comparison');
      const [[a], [b]] = [await runReference(feed, [logits]), await runTest(feed, [logits])];
      addLogits(a!, b!, signalError, distribution);
      done++;
      onProgress?.({ stage: 'compare', done, total: Math.max(total, done) });
    }
  });
  if (done === 0) throw inputError('compare', 'there are no samples, expected at least one');
  return {
    sqnrDb: signalError.sqnrDb,
    klDivergence: distribution.klDivergence,
    top1Agreement: distribution.top1Agreement,
    tokens: distribution.rows,
  };
}

/** @throws input error unless the second model can be fed as the first; parameters of a quantized cache are added to the feeds */
function checkInputs(reference: Model, rewritten: Model): void {
  const added = readCaches(rewritten).map(({ past_param: parameters }) => parameters);
  const names = (model: Model): string[] => modelIo(model).inputNames.filter((name) => !added.includes(name));
  const [first, second] = [names(reference), names(rewritten)];
  if (first.length === second.length && first.every((name) => second.includes(name))) return;
  throw inputError(
    'compare',
    `the second model has inputs ${second.join(', ')}, expected those of the first: ${first.join(', ')}`,
    'Compare a model with its rewritten form.',
  );
}

async function compareLayers(
  batch: readonly LayerPair[],
  feeds: readonly Feeds[],
  options: CompareOptions,
): Promise<LayerError[]> {
  const errors = new Map(batch.flatMap(({ parts }) => parts.map((part) => [part, new SignalError()] as const)));
  const references = [...new Set(batch.flatMap(({ parts }) => parts.flatMap(valuesOf)))];
  const sources = new Map<LayerPart, ErrorSources>();
  const tests = batch.map((pair) => pair.test);
  await withSessions(options, references, tests, async (runReference, runTest) => {
    for (const feed of feeds) {
      throwIfAborted(options.signal, 'comparison');
      const a = byValue(references, await runReference(feed, references));
      const b = byValue(tests, await runTest(feed, tests));
      for (const { node, test, parts } of batch) {
        for (const part of parts) {
          const [expected, product] = [a.get(part.reference)!, b.get(test)!];
          if (expected.size === 0 && product.size === 0) continue; // of a branch that did not run
          addLayer(expected, product, part, errors.get(part)!);
          if (!part.linear || sources.has(part) || !node.is('QuantGemm', 'lowbit')) continue;
          const { x, name } = part.linear;
          sources.set(part, errorSources(node, part, part.linear, floatsOf(a.get(x)!, name)));
        }
      }
    }
  });
  return batch.flatMap(({ node, parts }) =>
    parts.flatMap((part) => {
      const error = errors.get(part)!;
      if (error.isEmpty) return [];
      return [{ ...{ site: part.site, node: node.name, sqnrDb: error.sqnrDb }, ...sources.get(part) }];
    }),
  );
}

const byValue = (values: readonly Value[], tensors: readonly Tensor[]): Map<Value, Tensor> =>
  new Map(values.map((value, i) => [value, tensors[i]!]));

/** What a layer's comparison reads of the float model: its result and its input. */
const valuesOf = ({ reference, linear }: LayerPart): Value[] => [reference, ...(linear ? [linear.x] : [])];

/** Gives the outputs that are asked for by name, or the exposed values. */
type Run = (feed: Feeds, fetches: readonly (string | Value)[]) => Promise<Tensor[]>;

/** Opens both models with more outputs and closes them after the work. */
async function withSessions(
  { reference, rewritten, createSession }: CompareOptions,
  references: readonly Value[],
  tests: readonly Value[],
  work: (runReference: Run, runTest: Run) => Promise<void>,
): Promise<void> {
  const sessions: ModelSession[] = [];
  const quantized = quantizedFeeds(rewritten);
  const open = async (model: Model, values: readonly Value[]): Promise<Run> => {
    const { nameOf, restore } = exposeValues(model, values);
    const session = await openModel(model, createSession).finally(restore);
    sessions.push(session);
    return async (feed, fetches) => {
      const names = fetches.map((each) => (typeof each === 'string' ? each : nameOf(each)));
      const outputs = await session.run(feed, names);
      return names.map((name) => outputs[name] as Tensor);
    };
  };
  try {
    const runTest = await open(rewritten, tests);
    await work(await open(reference, references), (feed, fetches) => runTest(quantized(feed), fetches));
  } finally {
    for (const session of sessions) await session.release();
  }
}

function take<T>(items: Iterable<T>, count: number): T[] {
  const taken: T[] = [];
  for (const item of items) {
    if (taken.length >= count) break;
    taken.push(item);
  }
  return taken;
}

/** Tokens of the largest feed. */
function rowsOf(feeds: readonly Feeds[]): number {
  const sizes = feeds.flatMap((feed) => Object.values(feed).map(({ dims, size }) => (dims.length === 2 ? size : 1)));
  return Math.max(1, ...sizes);
}

/** Cuts the layers so that both models' outputs of one batch take at most `limit` bytes, at least one layer each. */
export function batches(pairs: readonly LayerPair[], rows: number, limit: number): LayerPair[][] {
  const result: LayerPair[][] = [];
  let bytes = 0;
  for (const pair of pairs) {
    const width = pair.parts.reduce((sum, { channels, linear }) => sum + 2 * channels + (linear?.K ?? 0), 0);
    const size = width * rows * 4;
    if (result.length === 0 || bytes + size > limit) {
      result.push([]);
      bytes = 0;
    }
    result.at(-1)!.push(pair);
    bytes += size;
  }
  return result;
}

function addLogits(a: Tensor, b: Tensor, signalError: SignalError, distribution: DistributionError): void {
  const [reference, test] = [readLogits(a, 'logits'), readLogits(b, 'logits')];
  if (reference.rows !== test.rows || reference.vocabulary !== test.vocabulary)
    throw inputError(
      'compare',
      `the models give scores [${a.dims.join(', ')}] and [${b.dims.join(', ')}], expected equal shapes`,
    );
  const width = reference.vocabulary;
  signalError.add(reference.data, test.data, width);
  for (let row = 0; row < reference.rows; row++)
    distribution.add(
      reference.data.subarray(row * width, (row + 1) * width),
      test.data.subarray(row * width, (row + 1) * width),
    );
}

function addLayer(reference: Tensor, product: Tensor, part: LayerPart, error: SignalError): void {
  const { start, channels, order, factors, site } = part;
  const expected = floatsOf(reference, site);
  const all = floatsOf(product, site);
  const width = product.dims.at(-1) ?? 0;
  const rows = all.length / width;
  if (expected.length !== rows * channels)
    throw inputError(
      site,
      `the layer gives [${reference.dims.join(', ')}], its product [${product.dims.join(', ')}], expected equal numbers of rows`,
      'Compare a model with its own rewritten form.',
    );
  for (let row = 0; row < rows; row++)
    error.add(
      expected.subarray(row * channels, (row + 1) * channels),
      all.subarray(row * width + start, row * width + start + channels),
      channels,
      order,
      factors,
    );
}
