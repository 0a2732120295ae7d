import { readFileSync } from 'node:fs';
import { inputError, usageError } from '../../ops/common/errors.js';
import { readNpy } from './npy.js';

/** Reads a file whole. @throws input error that names the file and the reason */
export function readBytes(path: string, what: string): Uint8Array {
  try {
    return readFileSync(path);
  } catch (cause) {
    throw inputError(path, `${what} cannot be read (${(cause as Error).message})`, '', cause);
  }
}

/** Token ids of a `.npy` file: a one-dimensional integer array. */
export function readTokens(path: string): Int32Array {
  const { dtype, shape, data } = readNpy(readBytes(path, 'the token file'), path);
  if (shape.length !== 1 || !/int/.test(dtype))
    throw inputError(path, `holds ${dtype} of shape (${shape.join(', ')}), expected a one-dimensional integer array`);
  return Int32Array.from(data as Int32Array, (value: number | bigint, index) => {
    const id = Number(value);
    if (id !== (id | 0)) throw inputError(path, `has ${value} at position ${index}, expected token ids below 2^31`);
    return id;
  });
}

/** Tokens of a window where nothing else is asked for. */
export const defaultLength = 512;

/**
 * Tokens of a window of text.
 * @param wanted default: {@link defaultLength}, or what the position table takes
 * @throws usage error for more than that
 */
export function windowLength(
  { positions = Infinity }: { readonly positions?: number | undefined },
  wanted?: number,
): number {
  const length = wanted ?? Math.min(defaultLength, positions);
  if (length <= positions) return length;
  throw usageError('length', `is ${length}, expected at most ${positions}, the rows of the model's position table`);
}

/**
 * Cuts ids into windows that do not overlap.
 * @param extra ids after a window that must exist (1 when each position predicts the next one); included in the window
 * @throws input error with counts if there is not even one window
 */
export function cutWindows(
  ids: Int32Array,
  { length, count, extra = 0, at }: { length: number; count: number; extra?: number; at: string },
): Int32Array[] {
  const available = Math.max(0, Math.floor((ids.length - extra) / length));
  if (available < 1) {
    throw inputError(
      at,
      `has ${ids.length} tokens, expected at least ${length + extra} for one window of ${length}`,
      'Give more text, or a smaller length where there is a choice.',
    );
  }
  return Array.from({ length: Math.min(count, available) }, (_, k) =>
    ids.subarray(k * length, (k + 1) * length + extra),
  );
}
