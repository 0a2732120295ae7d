import { inputError, usageError } from '../../../ops/common/errors.js';

/** @throws usage error for what is no array (of numbers, or typed) */
export function checkIsList(value: unknown, at: string, of: string): void {
  if (!Array.isArray(value) && !(ArrayBuffer.isView(value) && !(value instanceof DataView)))
    throw usageError(
      at,
      `is ${value === null ? 'null' : typeof value === 'object' ? 'an object' : (JSON.stringify(value) ?? typeof value)}, expected an array of ${of}`,
    );
}

/** Refuses what is no token id, or has no embedding in the model. */
export function checkIds(ids: Iterable<number>, vocabulary: number | undefined, at: string): void {
  const entries = vocabulary ?? 2 ** 31;
  for (const id of ids) {
    if (Number.isInteger(id) && id >= 0 && id < entries) continue;
    const known = vocabulary === undefined ? '' : ` the model's vocabulary has ${vocabulary} entries,`;
    throw inputError(
      at,
      `has token id ${typeof id === 'bigint' ? `${id}n` : String(id)},${known} expected integers from 0 to ${entries - 1}`,
      "Use the model's own tokenizer.",
    );
  }
}
