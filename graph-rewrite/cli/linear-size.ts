/** How many bits a rewritten model spends on each weight of its linear layers. */
import type { Model, Node } from '../ir/index.js';
import { attrInt } from '../ir/index.js';

export interface LinearSize {
  /** Weights that are stored in low bits. */
  readonly weights: number;
  /** Their codes and scales, outlier channels included. */
  readonly bytes: number;
  readonly bitsPerWeight: number;
}

/** Inputs of QuantGemm that hold a layer's weights: b, b_scale, b_outlier, b_outlier_scale. */
const weightInputs = [2, 3, 4, 5];

/** Sums up every QuantGemm of the model. */
export function linearSize(model: Model): LinearSize {
  let weights = 0;
  let bytes = 0;
  for (const node of quantGemms(model)) {
    weights += attrInt(node, 'K', 0) * attrInt(node, 'N', 0);
    for (const index of weightInputs) bytes += node.input(index)?.constant()?.byteLength ?? 0;
  }
  return { weights, bytes, bitsPerWeight: weights === 0 ? 0 : (8 * bytes) / weights };
}

function* quantGemms(model: Model): Iterable<Node> {
  for (const graph of model.walkGraphs()) {
    for (const node of graph.nodes) if (node.is('QuantGemm', 'lowbit')) yield node;
  }
}
