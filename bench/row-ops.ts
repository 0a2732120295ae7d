/**
 * `NormQuantize` beside ONNX Runtime's own norm followed by nothing: what adding a residual, normalizing, gathering and quantizing
 * costs on top of the norm that a float model has anyway.
 */
import { availableParallelism } from 'node:os';
import { Tensor } from '../native/js/index.js';
import type { OpSpec } from '../models/op-model.js';
import { timeNodes } from './measure.js';

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
function ours({ hidden, residual }: RowOpCase): OpSpec {
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
  };
}

function peer({ hidden, residual }: RowOpCase): OpSpec {
  const weight = { name: 'weight', dtype: 'float32' as const, dims: [hidden], constant: floats(hidden) };
  const common = { attributes: { epsilon: 1e-5 }, floats: ['epsilon'] };
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

/** Times one case. */
export async function benchRowOp(one: RowOpCase, samples = 15): Promise<RowOpResult> {
  const { hidden, rows, threads, residual } = one;
  const copies = Math.max(8, Math.min(400, Math.ceil(4e6 / (rows * hidden))));
  const x = new Tensor('float32', floats(rows * hidden), [rows, hidden]);
  const feeds = { x, ...(residual ? { residual: x } : {}) };
  const specs = [ours(one), peer(one)];
  const [own, theirs] = await timeNodes(
    specs.map((spec) => ({ spec, feeds })),
    { copies, threads, samples },
  );
  return {
    ...one,
    microseconds: own!.median,
    peerMicroseconds: theirs!.median,
    best: { microseconds: own!.best, peerMicroseconds: theirs!.best },
    peer: specs[1]!.op,
    ratio: own!.median / theirs!.median,
  };
}
