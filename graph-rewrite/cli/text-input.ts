/** Token ids from `--tokens FILE.npy`, or from `--text FILE --tokenizer FILE`. */
import { usageError } from '../../ops/common/errors.js';
import { defaultLength, loadTokenizer, readText, readTokens } from '../lm/index.js';
import type { CommonOptions } from './main.js';

export interface TokenOptions extends CommonOptions {
  readonly tokens?: string;
  readonly text?: string;
  readonly tokenizer?: string;
  readonly length?: number;
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
  if (tokenizer === undefined) {
    throw usageError(
      '--text',
      'a text without a tokenizer, expected --tokenizer FILE',
      "Give the model's tokenizer.json.",
    );
  }
  // The windows, and the id behind the last one.
  const words = readText(text, { length: options.length ?? defaultLength, count: options.windows + 1 });
  return { ids: Int32Array.from(loadTokenizer(tokenizer).encode(words)), at: text };
}
