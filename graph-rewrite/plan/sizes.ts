/** Bytes that packed layers and rewritten models take. */
import { packedRowBytes } from '../../ops/formats/formats.js';
import type { Analysis } from '../analyze/sites.js';
import type { Model, Value } from '../ir/index.js';
import { lorcBytes } from '../pack/lorc.js';
import type { PlanInput, PlanSite, PlanWeight } from './plan.js';

/**
 * Bytes of a packed weight with its scales: what a QuantGemm of the layer stores, without the bias.
 * @param sharedDown the first factor of its low-rank term is another layer's of the same product
 */
export function packedBytes(
  K: number,
  N: number,
  { format, groupSize, outlierChannels, lorc }: PlanWeight,
  sharedDown = false,
): number {
  const body = K - outlierChannels;
  const groups = groupSize > 0 ? body / groupSize : 1;
  const row = packedRowBytes(format, body);
  const factors = lorcBytes(K, N, lorc);
  const term = factors.up + (sharedDown ? 0 : factors.down);
  return N * (row + 2 * groups + (outlierChannels > 0 ? outlierChannels + 2 : 0)) + term;
}

/** Bytes of all tensors of the rewritten model: what stays, the packed weights, and the orders. */
export function predictBytes(
  model: Model,
  analysis: Analysis,
  inputs: readonly PlanInput[],
  sites: readonly PlanSite[],
): { linearBytes: number; outputBytes: number } {
  const quantized = new Set(sites.filter((site) => site.decision === 'quantize').map((site) => site.site));
  const users = new Map<Value, boolean>();
  for (const { weightValue, name } of analysis.linears) {
    if (weightValue) users.set(weightValue, (users.get(weightValue) ?? true) && quantized.has(name));
  }
  let kept = 0;
  for (const graph of model.walkGraphs()) {
    for (const value of graph.initializers()) {
      const replaced = users.get(value) && value.uses.length === layersOf(analysis, value);
      if (!replaced) kept += value.initializer?.byteLength ?? 0;
    }
  }
  const seen = new Set<Value>();
  let linearBytes = 0;
  for (const site of sites) {
    if (site.decision !== 'quantize') continue;
    const owner = analysis.linears.find((each) => each.name === site.site)?.weightValue;
    if (owner && seen.has(owner)) continue;
    if (owner) seen.add(owner);
    linearBytes += site.bytes;
  }
  const orders = inputs.filter((input) => input.reorder === 'gather');
  return { linearBytes, outputBytes: kept + linearBytes + orders.reduce((sum, input) => sum + 4 * input.channels, 0) };
}

/** Uses of a weight by layers, directly or through a Transpose or Cast that they share. */
function layersOf(analysis: Analysis, weight: Value): number {
  const direct = new Set(
    analysis.linears.filter((site) => site.weightValue === weight).map((site) => site.node.input(1) ?? weight),
  );
  return direct.has(weight) ? analysis.linears.filter((site) => site.node.input(1) === weight).length : direct.size;
}
