/** Values inside the branches of an If, handed out by it. */
import { internalError } from '../../ops/common/errors.js';
import type { DType } from '../onnx/dtype.js';
import { tensor } from './attributes.js';
import type { Graph } from './graph.js';
import type { Node } from './node.js';
import { inlineTensor } from './tensor.js';
import type { Value } from './value.js';

/** Whether all graphs around a value, up to the main one, are branches of an If. */
export function canHoist({ graph }: Value): boolean {
  for (let at = graph; at.parent; at = at.parent) if (!ifAround(at)) return false;
  return true;
}

/** The If that a graph is a branch of. */
function ifAround(graph: Graph): Node | undefined {
  return graph.parent?.nodes.find((node) => node.is('If') && [...node.subgraphs()].includes(graph));
}

/**
 * Makes a value of a branch an output of its If, through all that are around it. Where another branch runs, it is empty: every dimension is 0.
 * @param value see {@link canHoist}; no output of its graph yet
 * @param rank of the value
 * @returns the value in the main graph, and what restores the model; to be called in reverse order
 */
export function hoist(value: Value, dtype: DType, rank: number): { value: Value; undo: () => void } {
  const { graph } = value;
  if (!graph.parent) return { value, undo: () => undefined };
  const node = ifAround(graph);
  if (!node) throw internalError(graph.at, 'is no branch of an If, expected one');
  const empties: Node[] = [];
  for (const branch of node.subgraphs()) {
    if (branch === graph) continue;
    const zeros = tensor(inlineTensor(dtype, Array<number>(rank).fill(0), new Uint8Array(0)));
    const spec = { opType: 'Constant', name: `${value.name}/empty`, inputs: [], outputs: [`${value.name}/empty`] };
    empties.push(branch.addNode({ ...spec, attributes: { value: zeros } }));
  }
  const inner = [value, ...empties.map((empty) => empty.output(0)!)];
  for (const each of inner) {
    each.dtype = dtype;
    each.graph.addOutput(each);
  }
  const outer = graph.parent.createValue(graph.model.names.unique(`${value.name}/hoisted`));
  node.appendOutput(outer);
  const further = hoist(outer, dtype, rank);
  const undo = (): void => {
    further.undo();
    graph.parent!.dropOutput(node, outer);
    for (const each of inner) each.graph.removeOutput(each);
    for (const empty of empties) empty.graph.removeNode(empty);
  };
  return { value: further.value, undo };
}
