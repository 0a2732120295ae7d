/**
 * How everything here is timed: what is compared runs alternately, in one process, and medians are quoted. Runs on one thread are
 * timed by the CPU time that the process uses, which others on the machine hardly change; everything else by the clock, because
 * threads that wait for work use the CPU too.
 */
import { execFileSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';
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

/** Microseconds since some moment. */
type Clock = () => number;
const wallClock: Clock = () => Number(process.hrtime.bigint()) / 1e3;
const cpuClock: Clock = () => {
  const used = process.cpuUsage();
  return used.user + used.system;
};

const clockFor = (threads: number): Clock => (threads === 1 ? cpuClock : wallClock);

/**
 * Times runs alternately, `samples` of each. Every timed run follows an untimed one of its own, so that each finds its threads awake
 * and its weights where they usually are, not what the others left behind.
 */
async function alternate(
  runs: readonly (() => Promise<unknown>)[],
  samples: number,
  clock: Clock,
): Promise<number[][]> {
  const times: number[][] = runs.map(() => []);
  for (let sample = 0; sample < samples; sample++) {
    for (const [i, run] of runs.entries()) {
      await run();
      const begin = clock();
      await run();
      times[i]!.push(clock() - begin);
    }
  }
  return times;
}

/** Times whole runs of sessions with so many threads. */
export async function timeRuns(
  runs: readonly (() => Promise<unknown>)[],
  { threads, samples }: { threads: number; samples: number },
): Promise<Timing[]> {
  const times = await alternate(runs, samples, clockFor(threads));
  return times.map((each) => ({ median: median(each), best: Math.min(...each) }));
}

/** A session of threads that stop waiting busily when its run ends: otherwise they take the cores from whoever is timed next. */
export const quietThreads = { session: { force_spinning_stop: '1' } };

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
        extra: quietThreads,
        graphOptimizationLevel: 'disabled', // nobody uses the copies' outputs
      });
      sessions.push(session);
      runs.push(() => session.run(feeds));
    }
  }
  const times = await alternate(runs, samples, clockFor(threads));
  for (const session of sessions) await session.release();
  return cases.map((_, i) => {
    const node = (pick: (values: readonly number[]) => number) =>
      (pick(times[2 * i]!) - pick(times[2 * i + 1]!)) / copies;
    return { median: node(median), best: node((values) => Math.min(...values)) };
  });
}

/** What the machine can do at most, one thread: 10^9 u8 x s8 multiplications and additions a second, GB/s of cached reads. */
export interface Ceiling {
  readonly vnniGops: number;
  readonly readGigabytes: number;
}

/** Measures the ceiling; undefined where the build has no program for it. */
export function measureCeiling(): Ceiling | undefined {
  const program = fileURLToPath(new URL('../../build/bench/bench_ceiling', import.meta.url));
  return existsSync(program) ? (JSON.parse(execFileSync(program, { encoding: 'utf8' })) as Ceiling) : undefined;
}
