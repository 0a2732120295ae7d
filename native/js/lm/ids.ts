import { inputError } from '../../../ops/common/errors.js';

/** Refuses ids that the model has no embedding for. */
export function checkIds(ids: Iterable<number>, vocabulary: number | undefined, at: string): void {
  if (vocabulary === undefined) return;
  for (const id of ids) {
    if (id >= 0 && id < vocabulary) continue;
    throw inputError(
      at,
      `has token id ${id}, the model's vocabulary has ${vocabulary} entries, expected ids from 0 to ${vocabulary - 1}`,
      "Use the model's own tokenizer.",
    );
  }
}
