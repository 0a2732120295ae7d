/** Reductions added to a graph, so that a run hands out sums per channel instead of activations. */
import type { Model } from '../ir/model.js';
import type { Value } from '../ir/value.js';
import { TapGraph } from './tap-graph.js';

/** Output names of the reductions of one value. */
export interface Tap {
  readonly value: Value;
  readonly channels: number;
  readonly squares: string;
  readonly magnitudes: string;
  readonly min: string;
  readonly max: string;
  /** Shape [rows, channels]. */
  readonly shape: string;
  /** Some rows, if they were asked for. */
  readonly samples?: string;
}

/** The reductions in a model, until `remove` restores it as it was. */
export interface Taps {
  readonly taps: readonly Tap[];
  readonly remove: () => void;
}

/**
 * Adds Σx², Σ|x|, min x and max x over all rows of each value as graph outputs:
 *
 *     x ─ Reshape [rows, K] ─ Cast float ─┬─ Mul (x·x) ─ ReduceSum
 *                                         ├─ Abs ─ ReduceSum
 *                                         ├─ ReduceMin
 *                                         ├─ ReduceMax
 *                                         └─ Shape
 *
 * Not ReduceSumSquare: ONNX Runtime has a fast path for sums over rows, and none for that.
 * @param samples whether to hand out every {@link sampleStep}-th row too
 */
export function addTaps(
  model: Model,
  inputs: readonly { readonly input: Value; readonly K: number }[],
  samples: boolean,
): Taps {
  const graph = new TapGraph(model);
  const taps = inputs.map(({ input, K }) => addTap(graph, input, K, samples));
  return { taps, remove: () => graph.remove() };
}

/** One row in so many is a sample: 128 of the default 64 windows of 512 tokens. */
const sampleStep = 256;

function addTap(graph: TapGraph, value: Value, channels: number, samples: boolean): Tap {
  const name = `${value.name}/calibrate`;
  const floats = graph.rows(name, value, channels);
  const squares = graph.add('Mul', name, [floats, floats]);
  const magnitudes = graph.add('Abs', name, [floats]);
  return {
    value,
    channels,
    squares: graph.output(graph.reduce('ReduceSum', name, squares), 'float32', [channels]),
    magnitudes: graph.output(graph.reduce('ReduceSum', name, magnitudes), 'float32', [channels]),
    min: graph.output(graph.reduce('ReduceMin', name, floats), 'float32', [channels]),
    max: graph.output(graph.reduce('ReduceMax', name, floats), 'float32', [channels]),
    shape: graph.output(graph.add('Shape', name, [floats]), 'int64', [2]),
    ...(samples
      ? { samples: graph.output(graph.everyRow(sampleStep, name, floats), 'float32', [undefined, channels]) }
      : {}),
  };
}
