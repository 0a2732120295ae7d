/** Which values of a rewritten model stand for which values of the float model. */
import type { LinearSite } from '../analyze/sites.js';
import type { Model } from '../ir/model.js';
import type { Node } from '../ir/node.js';
import type { Value } from '../ir/value.js';
import { readCorrespondence } from '../passes/correspondence.js';

/** One rewritten product and the float layers it replaces. */
export interface LayerPair {
  readonly node: Node;
  /** The product [..., N]. */
  readonly test: Value;
  readonly parts: readonly LayerPart[];
}

export interface LayerPart {
  readonly site: string;
  /** The layer, if analysis finds it in the float model. */
  readonly linear?: LinearSite | undefined;
  readonly reference: Value;
  /** First output channel of this layer in the product, and their number. */
  readonly start: number;
  readonly channels: number;
  readonly order?: Int32Array | undefined;
  readonly factors?: Float32Array | undefined;
}

/**
 * The rewritten layers of the main graph, in graph order. Layers that the float model does not have are left out.
 * @param linears those of the float model
 */
export function layerPairs(reference: Model, rewritten: Model, linears: readonly LinearSite[] = []): LayerPair[] {
  const linearOf = new Map(linears.map((linear) => [linear.name, linear]));
  return rewritten.graph.nodes.flatMap((node) => {
    const test = node.output(0);
    const parts = partsOf(reference, node).map((part) => ({ ...part, linear: linearOf.get(part.site) }));
    return test && parts.length > 0 ? [{ node, test, parts }] : [];
  });
}

function partsOf(reference: Model, node: Node): LayerPart[] {
  const parts: LayerPart[] = [];
  let start = 0;
  for (const { site, output, channels, order, factors } of readCorrespondence(node)) {
    const value = reference.graph.ownValue(output);
    if (value?.producer) parts.push({ site, reference: value, start, channels, order, factors });
    start += channels;
  }
  return parts;
}
