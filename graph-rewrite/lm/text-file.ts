import { closeSync, openSync, readSync } from 'node:fs';
import { inputError } from '../../ops/common/errors.js';

const pieceBytes = 2 ** 20;
/** Characters out of place that a text may have: a book scanned badly passes, a program or a picture does not. */
const largestShare = 0.01;

/**
 * Reads the beginning of a UTF-8 text, of a file or a pipe: as much as surely holds some windows, 4 MiB or more.
 * @param window tokens in a window, and the windows that are wanted; a token rarely takes more than 16 bytes
 * @throws input error for what cannot be read and what is no text
 */
export function readText(path: string, window: { readonly length: number; readonly count: number }): string {
  const bytes = readStart(path, Math.max(2 ** 22, 16 * window.length * window.count));
  const text = new TextDecoder().decode(bytes, { stream: true });
  const strange = text.match(/[\0\ufffd]/g)?.length ?? 0;
  if (strange > largestShare * text.length) {
    const percent = ((100 * strange) / text.length).toFixed(0);
    throw inputError(
      path,
      `is no UTF-8 text (${percent} % of it), expected a text file`,
      'Token ids go into a .npy file.',
    );
  }
  return text;
}

function readStart(path: string, limit: number): Uint8Array {
  const pieces: Uint8Array[] = [];
  try {
    const file = openSync(path, 'r');
    try {
      for (let left = limit; left > 0;) {
        const piece = Buffer.allocUnsafe(Math.min(left, pieceBytes));
        const count = readSync(file, piece);
        if (count === 0) break;
        pieces.push(piece.subarray(0, count));
        left -= count;
      }
    } finally {
      closeSync(file);
    }
  } catch (cause) {
    throw inputError(
      path,
      `cannot be read (${(cause as Error).message}), expected a text file`,
      'Check the path.',
      cause,
    );
  }
  return Buffer.concat(pieces);
}
