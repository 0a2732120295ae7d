// Stable topological order.
import { inputError, internalError, type LowbitError } from '../../ops/common/errors.js';
import type { Graph } from './graph.js';
import type { Node } from './node.js';

/** The nodes of a graph, each behind those it depends on; an order that is already right does not change. */
export function sortNodes(graph: Graph): Node[] {
  return sorted(graph, (found) => internalError(`graph ${graph.name}`, found));
}

/** @throws input error if nodes of a graph wait for each other */
export function checkOrder(graph: Graph): void {
  sorted(graph, (found) =>
    inputError(graph.at, `${found}, expected an order to run them in`, 'Export the model again; it cannot run.'),
  );
}

function sorted(graph: Graph, failure: (found: string) => LowbitError): Node[] {
  const result: Node[] = [];
  const state = new Map<Node, 'open' | 'done'>();
  for (const root of graph.nodes) {
    // Depth first with a stack of our own: decoders are thousands of nodes deep.
    const stack = [root];
    while (stack.length > 0) {
      const node = stack.at(-1)!;
      if (state.get(node) === 'done') {
        stack.pop();
        continue;
      }
      const open = state.get(node) === 'open';
      const missing = open ? [] : [...dependencies(node, graph)].filter((other) => state.get(other) !== 'done');
      if (missing.length === 0) {
        state.set(node, 'done');
        result.push(node);
        stack.pop();
        continue;
      }
      state.set(node, 'open');
      const cyclic = missing.find((other) => state.get(other) === 'open');
      if (cyclic) throw failure(`nodes "${node.name}" and "${cyclic.name}" are on a cycle`);
      stack.push(...missing.reverse());
    }
  }
  return result;
}

/** Nodes of `graph` that a node uses, directly or from inside its subgraphs. */
function* dependencies(node: Node, graph: Graph): Iterable<Node> {
  for (const value of node.inputs) if (value?.producer && value.graph === graph) yield value.producer;
  for (const subgraph of node.subgraphs()) {
    for (const inner of subgraph.nodes) yield* dependencies(inner, graph);
    for (const output of subgraph.outputs) if (output.producer && output.graph === graph) yield output.producer;
  }
}
