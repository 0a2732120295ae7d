/** Hessians of layer inputs, Σ x·xᵀ over all calibration rows, up to the factor that GPTQ does not need. */
import type { Tensor } from 'onnxruntime-common';
import { inputError, internalError } from '../../ops/common/errors.js';
import { TapGraph } from '../calibrate/tap-graph.js';
import { ints } from '../ir/attributes.js';
import { canHoist } from '../ir/hoist.js';
import type { Model } from '../ir/model.js';
import { openModel } from '../lm/open.js';
import type { CreateSession, Feeds, ModelSession } from '../lm/session.js';
import { throwIfAborted } from '../lm/session.js';

/** Values whose rows make one Hessian. */
export interface HessianTarget {
  readonly values: readonly string[];
  readonly K: number;
}

export interface HessianOptions {
  /** Used up: what the targets do not need is taken away, so that it is not computed. */
  readonly model: Model;
  readonly targets: readonly HessianTarget[];
  /** Gone through once. */
  readonly feeds: Iterable<Feeds>;
  readonly createSession: CreateSession;
  readonly onRun?: (done: number) => void;
  readonly signal?: AbortSignal | undefined;
}

/**
 * Runs a model and sums x·xᵀ of each target, float32 [K, K], symmetric.
 *
 * The sum over the rows of a run is made inside the graph (`Transpose`, `MatMul`, which ONNX Runtime runs as one product), so a run hands
 * out K² numbers whatever the number of tokens.
 * @throws input error that names the value, the channel and the sample if an activation is not finite
 */
export async function collectHessians(options: HessianOptions): Promise<Float32Array[]> {
  const { model, targets, createSession, signal } = options;
  throwIfAborted(signal, 'gptq');
  const graph = new TapGraph(model);
  const outputs = targets.map(({ values, K }) => values.map((name) => taps(model, graph, name, K)));
  keepOnly(model, new Set(outputs.flat(2)));
  const session = await openModel(model, createSession);
  try {
    return await sum(session, outputs, options);
  } finally {
    await session.release();
  }
}

/** Outputs for all values of a name: branches of an If may have the same ones. */
function taps(model: Model, graph: TapGraph, name: string, K: number): string[] {
  const values = [...model.walkGraphs()].flatMap((each) => each.ownValue(name) ?? []);
  if (values.length === 0) throw internalError('gptq', `the model has no value "${name}"`);
  return values.filter(canHoist).map((value) => {
    const at = `${name}/hessian`;
    const rows = graph.rows(at, value, K);
    const columns = graph.add('Transpose', at, [rows], { perm: ints([1, 0]) });
    return graph.output(graph.add('MatMul', at, [columns, rows]), 'float32', [K, K]);
  });
}

function keepOnly({ graph }: Model, names: ReadonlySet<string>): void {
  for (const output of [...graph.outputs]) if (!names.has(output.name)) graph.removeOutput(output);
  graph.prune();
}

async function sum(
  session: ModelSession,
  outputs: readonly (readonly (readonly string[])[])[],
  { targets, feeds, onRun, signal }: HessianOptions,
): Promise<Float32Array[]> {
  const sums = targets.map(({ K }) => new Float32Array(K * K));
  const seen = targets.map(() => false);
  const fetches = outputs.flat(2);
  let done = 0;
  for (const feed of feeds) {
    throwIfAborted(signal, 'gptq');
    const results = (await session.run(feed, fetches)) as Record<string, Tensor>;
    outputs.forEach((each, i) => {
      const { values, K } = targets[i]!;
      const total = sums[i]!;
      each.forEach((names, v) => {
        for (const name of names) {
          const run = results[name]!.data as Float32Array;
          if (run.length === 0) continue; // of a branch that did not run
          seen[i] = true;
          refuseNonFinite(run, K, values[v]!, done);
          for (let at = 0; at < total.length; at++) total[at]! += run[at]!;
        }
      });
    });
    done++;
    onRun?.(done);
  }
  throwIfAborted(signal, 'gptq');
  if (done === 0) throw inputError('calibration', 'there are no samples, expected at least one');
  const missing = seen.indexOf(false);
  if (missing >= 0)
    throw inputError(
      targets[missing]!.values.join(', '),
      'is in a branch that no calibration sample takes, expected one that does',
      'Give feeds that take it, or round the layers behind it to nearest.',
    );
  return sums;
}

/** An element is no larger than the diagonal elements of its row and column, so these tell about all. */
function refuseNonFinite(hessian: Float32Array, K: number, value: string, run: number): void {
  for (let k = 0; k < K; k++) {
    const square = hessian[k * (K + 1)]!;
    if (Number.isFinite(square)) continue;
    throw inputError(
      value,
      `channel ${k} sums to ${square} over calibration sample ${run}, expected finite activations`,
      'Check the float model on this sample, or keep the layers that read it in float.',
    );
  }
}
