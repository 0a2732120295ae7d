/** Which values of a rewritten model stand for which values of the float model. */
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
  readonly reference: Value;
  /** First output channel of this layer in the product, and their number. */
  readonly start: number;
  readonly channels: number;
  readonly order?: Int32Array | undefined;
  readonly factors?: Float32Array | undefined;
}

/** The rewritten layers of the main graph, in graph order. Layers that the float model does not have are left out. */
export function layerPairs(reference: Model, rewritten: Model): LayerPair[] {
  return rewritten.graph.nodes.flatMap((node) => {
    const test = node.output(0);
    const parts = partsOf(reference, node);
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
