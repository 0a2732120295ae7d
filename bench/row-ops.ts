/**
 * `NormQuantize` beside ONNX Runtime's own norm followed by nothing: what adding a residual, normalizing, gathering and quantizing
 * costs on top of the norm that a float model has anyway.
 */
import { availableParallelism } from 'node:os';
import { InferenceSession, Tensor } from '../native/js/index.js';
import { opModel, type OpSpec } from '../models/op-model.js';

export interface RowOpCase {
  readonly hidden: number;
  readonly rows: number;
  readonly threads: number;
  /** Whether a residual is added and the sum kept, as between the blocks of a decoder. */
  readonly residual: boolean;
}

export interface RowOpResult extends RowOpCase {
  /** Median microseconds of one node. */
  readonly microseconds: number;
  /** The same of ONNX Runtime's norm. */
  readonly peerMicroseconds: number;
  /** The fastest of each: what is left of the noise of a shared machine. */
  readonly best: { readonly microseconds: number; readonly peerMicroseconds: number };
  readonly peer: string;
  /** Ours divided by theirs: below 1 is faster than the norm alone. */
  readonly ratio: number;
}

const hiddenSizes = [384, 2048, 4096];
const rowCounts = [1, 32, 512];

/** Every case, at one thread and at all. */
export function rowOpCases(threadCounts: readonly number[] = [1, availableParallelism()]): RowOpCase[] {
  const threads = [...new Set(threadCounts)];
  return threads.flatMap((threadCount) =>
    hiddenSizes.flatMap((hidden) =>
      rowCounts.flatMap((rows) => [false, true].map((residual) => ({ hidden, rows, threads: threadCount, residual }))),
    ),
  );
}

const floats = (count: number): Float32Array =>
  Float32Array.from({ length: count }, (_, i) => Math.sin(i * 12.9898) * 2);

/** A fixed order that jumps around as a calibrated one does. */
function order(count: number): Int32Array {
  const divisor = (a: number, b: number): number => (b === 0 ? a : divisor(b, a % b));
  let stride = Math.floor(count * 0.618) | 1;
  while (divisor(stride, count) !== 1) stride += 2;
  return Int32Array.from({ length: count }, (_, i) => (i * stride) % count);
}

const rowPort = (name: string, hidden: number) => ({ name, dtype: 'float32' as const, dims: ['M', hidden] });

/** Ours as the Atom recipe uses it: reordered, s4 groups of 128, 128 outlier channels. */
function ours({ hidden, residual }: RowOpCase, copies: number): OpSpec {
  return {
    op: 'NormQuantize',
    inputs: [
      rowPort('x', hidden),
      { name: 'weight', dtype: 'float32', dims: [hidden], constant: floats(hidden) },
      undefined,
      { name: 'order', dtype: 'int32', dims: [hidden], constant: order(hidden) },
      residual ? rowPort('residual', hidden) : undefined,
    ],
    outputs: [
      { name: 'q', dtype: 'int8', dims: ['M', hidden] },
      { name: 'scale', dtype: 'float32', dims: ['M', 'S'] },
      residual ? rowPort('sum', hidden) : undefined,
    ],
    attributes: { norm: 'rms', epsilon: 1e-5, format: 's4', group_size: 128, outlier_channels: 128, clip: 0.9 },
    floats: ['epsilon', 'clip'],
    copies,
  };
}

function peer({ hidden, residual }: RowOpCase, copies: number): OpSpec {
  const weight = { name: 'weight', dtype: 'float32' as const, dims: [hidden], constant: floats(hidden) };
  const common = { attributes: { epsilon: 1e-5 }, floats: ['epsilon'], copies };
  if (!residual) {
    const inputs = [rowPort('x', hidden), weight];
    return { op: 'SimplifiedLayerNormalization', domain: '', inputs, outputs: [rowPort('y', hidden)], ...common };
  }
  return {
    op: 'SkipSimplifiedLayerNormalization',
    domain: 'com.microsoft',
    inputs: [rowPort('x', hidden), rowPort('residual', hidden), weight],
    outputs: [rowPort('y', hidden), undefined, undefined, rowPort('sum', hidden)],
    ...common,
  };
}

interface Runner {
  /** Microseconds of one run. */
  readonly time: () => Promise<number>;
  readonly release: () => Promise<void>;
}

async function runner(spec: OpSpec, { hidden, rows, threads, residual }: RowOpCase): Promise<Runner> {
  const session = await InferenceSession.create(opModel(spec), {
    intraOpNumThreads: threads,
    graphOptimizationLevel: 'disabled', // nobody uses the copies' outputs
  });
  const x = new Tensor('float32', floats(rows * hidden), [rows, hidden]);
  const feeds = { x, ...(residual ? { residual: x } : {}) };
  const time = async (): Promise<number> => {
    const start = process.hrtime.bigint();
    await session.run(feeds);
    return Number(process.hrtime.bigint() - start) / 1e3;
  };
  return { time, release: () => session.release() };
}

const median = (values: number[]): number => values.sort((a, b) => a - b)[Math.floor(values.length / 2)]!;

/** Times one case: runs of one node and of many alternate, and their difference is the nodes' own time. */
export async function benchRowOp(one: RowOpCase, samples = 15): Promise<RowOpResult> {
  const copies = Math.max(8, Math.min(400, Math.ceil(4e6 / (one.rows * one.hidden))));
  const specs = [ours(one, copies + 1), ours(one, 1), peer(one, copies + 1), peer(one, 1)];
  const runners: Runner[] = [];
  for (const spec of specs) runners.push(await runner(spec, one));
  const times: number[][] = specs.map(() => []);
  for (let sample = -2; sample < samples; sample++) {
    for (const [i, { time }] of runners.entries()) {
      const microseconds = await time();
      if (sample >= 0) times[i]!.push(microseconds); // the first ones warm up
    }
  }
  for (const { release } of runners) await release();
  const nodeTime = (pick: (values: number[]) => number, many: number): number =>
    (pick(times[many]!) - pick(times[many + 1]!)) / copies;
  const fastest = (values: number[]): number => Math.min(...values);
  const microseconds = nodeTime(median, 0);
  const peerMicroseconds = nodeTime(median, 2);
  const best = { microseconds: nodeTime(fastest, 0), peerMicroseconds: nodeTime(fastest, 2) };
  return { ...one, microseconds, peerMicroseconds, best, peer: specs[2]!.op, ratio: microseconds / peerMicroseconds };
}

/** Runs all cases; `onResult` sees each one as it is done. */
export async function benchRowOps(
  cases: readonly RowOpCase[] = rowOpCases(),
  onResult: (result: RowOpResult) => void = () => undefined,
): Promise<RowOpResult[]> {
  const results: RowOpResult[] = [];
  for (const one of cases) {
    const result = await benchRowOp(one);
    results.push(result);
    onResult(result);
  }
  return results;
}
