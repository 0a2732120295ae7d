import { inputError } from '../../../ops/common/errors.js';

/** Refuses what is no token id, or has no embedding in the model. */
export function checkIds(ids: Iterable<number>, vocabulary: number | undefined, at: string): void {
  const entries = vocabulary ?? 2 ** 31;
  for (const id of ids) {
    if (Number.isInteger(id) && id >= 0 && id < entries) continue;
    const known = vocabulary === undefined ? '' : ` the model's vocabulary has ${vocabulary} entries,`;
    throw inputError(
      at,
      `has token id ${id},${known} expected integers from 0 to ${entries - 1}`,
      "Use the model's own tokenizer.",
    );
  }
}
