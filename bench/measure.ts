/**
 * How everything here is timed: what is compared runs alternately, in one process, and medians are quoted.
 */
import { InferenceSession, type Tensor } from '../native/js/index.js';
import { opModel, type OpSpec } from '../models/op-model.js';

export interface Timing {
  /** Median microseconds. */
  readonly median: number;
  /** The fastest: what is left of the noise of a shared machine. */
  readonly best: number;
}

const median = (values: readonly number[]): number =>
  values.toSorted((a, b) => a - b)[Math.floor(values.length / 2)] ?? NaN;

/** Microseconds that `run` takes. */
async function stopwatch(run: () => Promise<unknown>): Promise<number> {
  const start = process.hrtime.bigint();
  await run();
  return Number(process.hrtime.bigint() - start) / 1e3;
}

/**
 * Times runs alternately, `samples` of each. Every timed run follows an untimed one of its own, so that each finds its threads awake
 * and its weights where they usually are, not what the others left behind.
 */
async function alternate(runs: readonly (() => Promise<unknown>)[], samples: number): Promise<number[][]> {
  const times: number[][] = runs.map(() => []);
  for (let sample = 0; sample < samples; sample++) {
    for (const [i, run] of runs.entries()) {
      await run();
      times[i]!.push(await stopwatch(run));
    }
  }
  return times;
}

/** Times whole runs. */
export async function timeRuns(runs: readonly (() => Promise<unknown>)[], samples: number): Promise<Timing[]> {
  const times = await alternate(runs, samples);
  return times.map((each) => ({ median: median(each), best: Math.min(...each) }));
}

/** One operator to time, and what it is fed. */
export interface NodeCase {
  readonly spec: OpSpec;
  readonly feeds: Readonly<Record<string, Tensor>>;
}

/**
 * Times nodes: of each, runs of one node and of `1 + copies` nodes alternate, and the difference is the nodes' own time, without
 * what a run costs around them.
 */
export async function timeNodes(
  cases: readonly NodeCase[],
  { copies, threads, samples }: { copies: number; threads: number; samples: number },
): Promise<Timing[]> {
  const sessions: InferenceSession[] = [];
  const runs: (() => Promise<unknown>)[] = [];
  for (const { spec, feeds } of cases) {
    for (const count of [copies + 1, 1]) {
      const session = await InferenceSession.create(opModel({ ...spec, copies: count }), {
        intraOpNumThreads: threads,
        graphOptimizationLevel: 'disabled', // nobody uses the copies' outputs
      });
      sessions.push(session);
      runs.push(() => session.run(feeds));
    }
  }
  const times = await alternate(runs, samples);
  for (const session of sessions) await session.release();
  return cases.map((_, i) => {
    const node = (pick: (values: readonly number[]) => number) =>
      (pick(times[2 * i]!) - pick(times[2 * i + 1]!)) / copies;
    return { median: node(median), best: node((values) => Math.min(...values)) };
  });
}
