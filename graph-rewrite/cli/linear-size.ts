/** How many bits a rewritten model spends on each weight of its linear layers. */
import { QuantGemm } from '../../ops/quant-gemm/contract.js';
import type { Model, Node, Tensor } from '../ir/index.js';
import { attrInt } from '../ir/index.js';

export interface LinearSize {
  /** Weights that are stored in low bits. */
  readonly weights: number;
  /** Their codes and scales, outlier channels included. */
  readonly bytes: number;
  readonly bitsPerWeight: number;
}

/** Inputs of QuantGemm that hold a layer's weights: codes and scales, of outliers and of a low-rank term too. */
const weightInputs = QuantGemm.inputNames.flatMap((name, i) => (/^(b|lorc)_|^b$/.test(name) ? [i] : []));

/** Sums up every QuantGemm of the model; weights that several of them share count once, as they are stored. */
export function linearSize(model: Model): LinearSize {
  const seen = new Set<Tensor>();
  let weights = 0;
  let bytes = 0;
  for (const node of quantGemms(model)) {
    const codes = node.input(weightInputs[0]!)?.constant();
    if (codes && seen.has(codes)) continue;
    if (codes) seen.add(codes);
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
