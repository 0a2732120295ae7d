// Invariants of a model, checked after reading by whoever wants to know and before every write.
import { inputError, type LowbitError } from '../../ops/common/errors.js';
import type { Graph } from './graph.js';
import type { Model } from './model.js';
import type { Node } from './node.js';
import { checkOrder } from './sort.js';
import type { Value } from './value.js';

/**
 * Checks that every value used is defined, here or around, that names are unique per graph, that edges agree from both ends, and that
 * there are no cycles.
 * @throws LowbitError 'input', naming graph, node and value
 */
export function checkModel(model: Model): void {
  for (const graph of model.walkGraphs()) {
    checkGraph(graph);
    checkOrder(graph);
  }
}

function checkGraph(graph: Graph): void {
  const nodeNames = new Set<string>();
  for (const node of graph.nodes) {
    const where = `${graph.at}: node "${node.name}" (${node.opType})`;
    if (node.name !== '' && nodeNames.has(node.name))
      throw invalid(where, 'has the name of another node, expected one of its own');
    nodeNames.add(node.name);
    node.inputs.forEach((value, index) => {
      if (value) checkInput(value, node, index, where);
    });
    for (const value of node.outputs) {
      if (value && (value.producer !== node || graph.ownValue(value.name) !== value)) {
        throw invalid(where, `its output "${value.name}" is not its own`);
      }
    }
  }
  for (const value of graph.outputs) {
    if (!isDefined(value))
      throw invalid(graph.at, `its output "${value.name}" is defined nowhere, expected ${definition}`);
  }
}

function checkInput(value: Value, node: Node, index: number, where: string): void {
  if (!isDefined(value)) throw invalid(where, `its input "${value.name}" is defined nowhere, expected ${definition}`);
  if (node.graph.value(value.name) !== value)
    throw invalid(where, `its input "${value.name}" is not visible from here`);
  if (!value.uses.some((use) => use.node === node && use.index === index)) {
    throw invalid(where, `its input "${value.name}" does not know of this use`);
  }
}

const definition = "an input, an initializer or a node's output";

const invalid = (where: string, found: string): LowbitError =>
  inputError(where, found, 'Export the model again; it cannot run.');

function isDefined(value: Value): boolean {
  return (
    value.producer !== undefined || value.initializer !== undefined || value.isGraphInput || value.isSparseInitializer
  );
}
