/** Token ids from `--tokens FILE.npy`, or from `--text FILE --tokenizer FILE`. */
import { readFileSync } from 'node:fs';
import { usageError } from '../../ops/common/errors.js';
import { loadTokenizer, readTokens } from '../lm/index.js';
import type { CommonOptions } from './main.js';

export interface TokenOptions extends CommonOptions {
  readonly tokens?: string;
  readonly text?: string;
  readonly tokenizer?: string;
  readonly length: number;
  readonly windows: number;
  readonly threads?: number;
}

/** The ids, and the file they came from for errors. */
export function tokenInput(options: TokenOptions): { ids: Int32Array; at: string } {
  const { tokens, text, tokenizer } = options;
  if (tokens !== undefined && text !== undefined) {
    throw usageError('--tokens, --text', 'both given, expected one of them');
  }
  if (tokens !== undefined) return { ids: readTokens(tokens), at: tokens };
  if (text === undefined) {
    throw usageError('--tokens', 'no text given, expected --tokens FILE.npy, or --text FILE with --tokenizer FILE');
  }
  return { ids: encodeFile(text, tokenizer, '--text'), at: text };
}

/** Reads a text file and encodes it; `option` is the one that named the file. */
export function encodeFile(file: string, tokenizer: string | undefined, option: string): Int32Array {
  if (tokenizer === undefined) {
    throw usageError(
      option,
      'a text without a tokenizer, expected --tokenizer FILE',
      "Give the model's tokenizer.json.",
    );
  }
  return Int32Array.from(loadTokenizer(tokenizer).encode(readFileSync(file, 'utf8')));
}
