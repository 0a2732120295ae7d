/** Recognizes the model that a plan was made for. */
import { createHash } from 'node:crypto';
import type { Analysis } from '../analyze/sites.js';
import { elementCount, readFloats, type Model } from '../ir/index.js';

const sampled = 256;

/** sha256 over the graph's nodes and edges, the layout of its constants, and the first elements of every layer's weight. */
export function fingerprint(model: Model, analysis: Analysis): string {
  const hash = createHash('sha256');
  const line = (...parts: unknown[]) => hash.update(`${parts.join('\t')}\n`);
  for (const graph of model.walkGraphs()) {
    line(
      'graph',
      graph.name,
      ...graph.inputs.map((value) => value.name),
      '->',
      ...graph.outputs.map((value) => value.name),
    );
    for (const value of graph.initializers())
      line('constant', value.name, value.initializer?.dtype, value.initializer?.dims.join());
    for (const node of graph.nodes) {
      const names = (values: readonly ({ name: string } | undefined)[]) =>
        values.map((value) => value?.name ?? '').join();
      line('node', node.domain, node.opType, node.name, names(node.inputs), names(node.outputs));
    }
  }
  for (const site of analysis.linears) {
    const count = Math.min(sampled, elementCount(site.weight));
    if (count > 0) hash.update(new Uint8Array(readFloats(site.weight, 0, count).buffer));
  }
  return hash.digest('hex');
}
