import type { Model } from '../ir/model.js';
import type { Value } from '../ir/value.js';

/**
 * Makes values graph outputs, so that a session can hand them out.
 * @returns a function that restores the model
 */
export function exposeValues(model: Model, values: readonly Value[]): () => void {
  const added = [...new Set(values)].filter((value) => !value.isGraphOutput);
  for (const value of added) model.graph.addOutput(value);
  return () => {
    for (const value of added) model.graph.removeOutput(value);
  };
}
