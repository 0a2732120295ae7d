import type { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import { canHoist } from '../ir/hoist.js';
import type { Model } from '../ir/model.js';
import type { Value } from '../ir/value.js';
import { openModel } from '../lm/open.js';
import type { CreateSession, Feeds, ModelSession, OnProgress } from '../lm/session.js';
import { throwIfAborted } from '../lm/session.js';
import { StatsAccumulator } from './stats.js';
import type { ChannelStats } from './stats.js';
import { addTaps } from './taps.js';
import type { Tap } from './taps.js';

/** What calibration reads of an analysis. */
export interface CalibrationTargets {
  readonly inputs: readonly {
    readonly input: Value;
    readonly K: number;
    readonly linears: readonly { readonly quantizable: boolean }[];
  }[];
}

export interface CalibrateOptions {
  readonly model: Model;
  readonly analysis: CalibrationTargets;
  /** One run each; see `textFeeds` and `recordedFeeds`. */
  readonly feeds: Iterable<Feeds> | AsyncIterable<Feeds>;
  readonly createSession: CreateSession;
  /** Whether statistics hold sample rows too. */
  readonly samples?: boolean;
  /** How many feeds there are, for progress. */
  readonly total?: number;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs the float model and collects statistics of every value that a quantizable linear layer multiplies.
 *
 * The sums are made inside the graph, so a run hands out vectors of K numbers whatever the number of tokens. Weights stay where they
 * are: the session reads data files in place. The model is as before afterwards. Of the branches of an If those count that run; values of one
 * name are one, such as those of the branches of a merged decoder. Values inside other subgraphs (Loop) are left out.
 * @returns statistics by value name; none of values that no run computed
 */
export async function calibrate(options: CalibrateOptions): Promise<Map<string, ChannelStats>> {
  const { model, analysis, createSession, samples = false, signal } = options;
  const targets = analysis.inputs.filter(
    ({ input, linears }) => canHoist(input) && linears.some((site) => site.quantizable),
  );
  if (targets.length === 0) return new Map();
  throwIfAborted(signal, 'calibration');
  const { taps, remove } = addTaps(model, targets, samples);
  let session: ModelSession;
  try {
    session = await openModel(model, createSession);
  } finally {
    remove();
  }
  try {
    return await collect(session, taps, options);
  } finally {
    await session.release();
  }
}

async function collect(
  session: ModelSession,
  taps: readonly Tap[],
  { feeds, total = 0, onProgress, signal }: CalibrateOptions,
): Promise<Map<string, ChannelStats>> {
  const sums = new Map<string, StatsAccumulator>();
  for (const { value, channels } of taps)
    if (!sums.has(value.name)) sums.set(value.name, new StatsAccumulator(channels));
  const fetches = taps.flatMap(({ squares, magnitudes, min, max, shape, samples }) => [
    ...[squares, magnitudes, min, max, shape],
    ...(samples === undefined ? [] : [samples]),
  ]);
  let done = 0;
  for await (const feed of feeds) {
    throwIfAborted(signal, 'calibration');
    const outputs = (await session.run(feed, fetches)) as Record<string, Tensor>;
    for (const tap of taps) {
      const sum = sums.get(tap.value.name)!;
      if (sum.channels === tap.channels) addRun(sum, tap, outputs, done);
    }
    done++;
    onProgress?.({ stage: 'calibrate', done, total: Math.max(total, done) });
  }
  throwIfAborted(signal, 'calibration');
  if (done === 0) throw inputError('calibration', 'there are no samples, expected at least one');
  return new Map([...sums].map(([name, sum]) => [name, sum.result(name)] as const).filter(([, { rows }]) => rows > 0));
}

function addRun(sums: StatsAccumulator, tap: Tap, outputs: Record<string, Tensor>, run: number): void {
  const shape = outputs[tap.shape]!.data as BigInt64Array;
  if (shape.length === 0) return; // of a branch that did not run
  const floats = (name: string) => outputs[name]!.data as Float32Array;
  const bad = sums.add({
    rows: Number(shape[0]),
    squares: floats(tap.squares),
    magnitudes: floats(tap.magnitudes),
    min: floats(tap.min),
    max: floats(tap.max),
    samples: tap.samples === undefined ? undefined : floats(tap.samples),
  });
  if (bad === undefined) return;
  throw inputError(
    tap.value.name,
    `channel ${bad} is not finite on calibration sample ${run}, expected finite activations`,
    'Check the float model on this sample.',
  );
}
