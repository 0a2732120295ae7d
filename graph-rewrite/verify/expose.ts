import { int } from '../ir/attributes.js';
import { hoist } from '../ir/hoist.js';
import type { Model } from '../ir/model.js';
import type { Value } from '../ir/value.js';

/** Values of a model that a session can hand out. */
export interface Exposed {
  /** Name of the graph output that gives a value. */
  readonly nameOf: (value: Value) => string;
  /** Restores the model. */
  readonly restore: () => void;
}

/** Makes values graph outputs; those in branches of an If as float32, empty where another branch runs. */
export function exposeValues(model: Model, values: readonly Value[]): Exposed {
  const names = new Map<Value, string>();
  const undos: (() => void)[] = [];
  for (const value of new Set(values)) {
    const outer = value.graph === model.graph ? value : handedOut(value, undos);
    names.set(value, outer.name);
    if (outer.isGraphOutput) continue;
    model.graph.addOutput(outer);
    undos.push(() => model.graph.removeOutput(outer));
  }
  return { nameOf: (value) => names.get(value)!, restore: () => undos.reverse().forEach((undo) => undo()) };
}

/** A copy of a branch's value in the main graph. */
function handedOut(value: Value, undos: (() => void)[]): Value {
  const name = `${value.name}/compared`;
  const spec = { opType: 'Cast', name, inputs: [value], outputs: [name], attributes: { to: int(1) } };
  const cast = value.graph.addNode(spec);
  undos.push(() => value.graph.removeNode(cast));
  const hoisted = hoist(cast.output(0)!, 'float32', 1);
  undos.push(hoisted.undo);
  return hoisted.value;
}
