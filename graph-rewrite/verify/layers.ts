/** Which values of a rewritten model stand for which values of the float model. */
import type { LinearSite } from '../analyze/sites.js';
import type { Graph } from '../ir/graph.js';
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
 * The rewritten layers of the main graph, in graph order, and behind them those of the branches of its Ifs. Layers that the float model does not have
 * are left out.
 * @param linears those of the float model
 */
export function layerPairs(reference: Model, rewritten: Model, linears: readonly LinearSite[] = []): LayerPair[] {
  return pairsOf(reference.graph, rewritten.graph, linears);
}

function pairsOf(reference: Graph, rewritten: Graph, linears: readonly LinearSite[]): LayerPair[] {
  const own = rewritten.nodes.flatMap((node) => {
    const test = node.output(0);
    const parts = partsOf(reference, node, linears);
    return test && parts.length > 0 ? [{ node, test, parts }] : [];
  });
  const branches = rewritten.nodes.filter((node) => node.is('If'));
  return [...own, ...branches.flatMap((node) => branchPairs(reference, node, linears))];
}

/** The rewriter leaves an If as it is, with other nodes in its branches. */
function branchPairs(reference: Graph, node: Node, linears: readonly LinearSite[]): LayerPair[] {
  const float = reference.nodes.find(({ name }) => name === node.name);
  return [...node.attributes].flatMap(([name, test]) => {
    const branch = float?.attributes.get(name);
    return test.type === 'graph' && branch?.type === 'graph' ? pairsOf(branch.value, test.value, linears) : [];
  });
}

function partsOf(reference: Graph, node: Node, linears: readonly LinearSite[]): LayerPart[] {
  const parts: LayerPart[] = [];
  let start = 0;
  for (const { site, output, channels, order, factors } of readCorrespondence(node)) {
    const value = reference.ownValue(output);
    const linear = linears.find(({ name, graph }) => name === site && graph === reference);
    if (value?.producer) parts.push({ site, linear, reference: value, start, channels, order, factors });
    start += channels;
  }
  return parts;
}
