// Byte ranges of data files.
import { closeSync, fstatSync, openSync, readSync, statSync } from 'node:fs';

import { inputError } from '../../ops/common/errors.js';

/** Throws LowbitError 'input' if the file is missing or shorter than `needed` bytes. */
export function checkFileSize(path: string, needed: number, at: string): void {
  const stat = statSync(path, { throwIfNoEntry: false });
  if (!stat) throw inputError(at, `data file ${path} is missing`, 'Put it beside the model.');
  if (stat.size < needed) {
    throw inputError(
      at,
      `data file ${path} has ${stat.size} bytes, expected at least ${needed}`,
      'It is truncated: copy it again.',
    );
  }
}

/**
 * Reads a range of a file at any offset, in pieces that one system call can hold.
 * @param at what the bytes are, for errors
 * @throws LowbitError 'input' if the file is missing or too short
 */
export function readFileRange(path: string, position: number, length: number, at: string): Uint8Array {
  const maxPiece = 2 ** 30;
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    throw inputError(
      at,
      `cannot open data file ${path} (${(error as NodeJS.ErrnoException).code})`,
      'Put it beside the model.',
      error,
    );
  }
  try {
    if (fstatSync(file).size < position + length) checkFileSize(path, position + length, at);
    const bytes = Buffer.allocUnsafeSlow(length);
    for (let done = 0; done < length;) {
      const count = readSync(file, bytes, done, Math.min(length - done, maxPiece), position + done);
      if (count === 0) throw inputError(at, `data file ${path} became shorter while it was read`);
      done += count;
    }
    return bytes;
  } finally {
    closeSync(file);
  }
}
