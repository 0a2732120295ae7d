/** Recognizes the model that a plan was made for. */
import { createHash } from 'node:crypto';
import { usageError } from '../../ops/common/errors.js';
import type { Analysis } from '../analyze/sites.js';
import type { Model, Tensor } from '../ir/index.js';
import { checkCouplings } from './couplings.js';
import type { Plan } from './plan.js';

/** Of a large constant so many pieces count, spread over all of it. */
const pieces = 16;
const pieceBytes = 256;

/** sha256 over the graph's nodes and edges, the layout of its constants, and samples of all of them. */
export function fingerprint(model: Model, analysis: Analysis): string {
  const hash = createHash('sha256');
  const line = (...parts: unknown[]) => hash.update(`${parts.join('\t')}\n`);
  const sampled = new Set<Tensor>();
  const data = (tensor: Tensor) => {
    if (!sampled.has(tensor)) for (const piece of samples(tensor)) hash.update(piece);
    sampled.add(tensor);
  };
  for (const graph of model.walkGraphs()) {
    line(
      'graph',
      graph.name,
      ...graph.inputs.map((value) => value.name),
      '->',
      ...graph.outputs.map((value) => value.name),
    );
    for (const { name, initializer } of graph.initializers()) {
      line('constant', name, initializer?.dtype, initializer?.dims.join());
      if (initializer) data(initializer);
    }
    for (const node of graph.nodes) {
      const names = (values: readonly ({ name: string } | undefined)[]) =>
        values.map((value) => value?.name ?? '').join();
      line('node', node.domain, node.opType, node.name, names(node.inputs), names(node.outputs));
    }
  }
  for (const { weight } of analysis.linears) data(weight); // of Constant nodes too
  return hash.digest('hex');
}

/** @throws usage error for a plan that was made for another model, or whose entries do not belong together */
export function checkPlanFor(plan: Plan, model: Model, analysis: Analysis): void {
  const sha256 = fingerprint(model, analysis);
  if (plan.model.sha256 !== sha256)
    throw usageError(
      'plan',
      `was made for the model ${plan.model.sha256.slice(0, 12)} (${plan.model.path || 'unnamed'}), this one is ${sha256.slice(0, 12)}`,
      'Make the plan anew with --dry-run.',
    );
  checkCouplings(plan, analysis);
}

function* samples(tensor: Tensor): Iterable<Uint8Array> {
  const { byteLength } = tensor;
  if (byteLength <= pieces * pieceBytes) return yield tensor.bytes();
  const all = tensor.read ? undefined : tensor.bytes();
  for (let i = 0; i < pieces; i++) {
    const start = Math.floor((i * (byteLength - pieceBytes)) / (pieces - 1));
    yield all?.subarray(start, start + pieceBytes) ?? tensor.read!(start, pieceBytes);
  }
}
