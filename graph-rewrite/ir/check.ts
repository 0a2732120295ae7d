// Invariants of a model, checked after reading by whoever wants to know and before every write.
import { inputError } from '../../ops/common/errors.js';
import type { Graph } from './graph.js';
import type { Model } from './model.js';
import type { Node } from './node.js';
import type { Value } from './value.js';

/**
 * Checks that every value used is defined, here or around, that names are unique per graph, and that edges agree from both ends.
 * @throws LowbitError 'input', naming graph, node and value
 */
export function checkModel(model: Model): void {
  for (const graph of model.walkGraphs()) checkGraph(graph);
}

function checkGraph(graph: Graph): void {
  const at = `graph "${graph.name}"`;
  const nodeNames = new Set<string>();
  for (const node of graph.nodes) {
    const where = `${at}: node "${node.name}" (${node.opType})`;
    if (node.name !== '' && nodeNames.has(node.name)) throw inputError(where, 'has the name of another node');
    nodeNames.add(node.name);
    node.inputs.forEach((value, index) => {
      if (value) checkInput(value, node, index, where);
    });
    for (const value of node.outputs) {
      if (value && (value.producer !== node || graph.ownValue(value.name) !== value)) {
        throw inputError(where, `its output "${value.name}" is not its own`);
      }
    }
  }
  for (const value of graph.outputs) {
    if (!isDefined(value)) throw inputError(at, `its output "${value.name}" is defined nowhere`);
  }
}

function checkInput(value: Value, node: Node, index: number, where: string): void {
  if (!isDefined(value)) throw inputError(where, `its input "${value.name}" is defined nowhere`);
  if (node.graph.value(value.name) !== value)
    throw inputError(where, `its input "${value.name}" is not visible from here`);
  if (!value.uses.some((use) => use.node === node && use.index === index)) {
    throw inputError(where, `its input "${value.name}" does not know of this use`);
  }
}

function isDefined(value: Value): boolean {
  return (
    value.producer !== undefined || value.initializer !== undefined || value.isGraphInput || value.isSparseInitializer
  );
}
