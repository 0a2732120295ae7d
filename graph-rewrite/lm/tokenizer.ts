import { existsSync, statSync } from 'node:fs';
import { dirname, join } from 'node:path';
import { Tokenizer } from '@huggingface/tokenizers';
import { inputError } from '../../ops/common/errors.js';
import { readJson } from '../../ops/common/json.js';

/** Text to ids and back. */
export interface TextTokenizer {
  readonly path: string;
  /** Largest id + 1, added tokens included. */
  readonly size: number;
  /** Ids with the special tokens that the tokenizer adds around a text (a BOS, [CLS] … [SEP]). */
  encode(text: string): number[];
  /** Text without special tokens. */
  decode(ids: readonly number[]): string;
  /** Ids that end a text, by the tokenizer's configuration or by their usual names. */
  readonly stopIds: readonly number[];
}

const usualEnds = ['</s>', '<|endoftext|>', '<|end_of_text|>', '<|eot_id|>', '<|im_end|>', '<eos>'];

/**
 * Loads a `tokenizer.json`, with the `tokenizer_config.json` beside it if there is one.
 * @param path the file, or the folder that holds it
 */
export function loadTokenizer(path: string): TextTokenizer {
  const file = existsSync(path) && statSync(path).isDirectory() ? join(path, 'tokenizer.json') : path;
  const json = readJson(file, 'a tokenizer.json') as object;
  const configFile = join(dirname(file), 'tokenizer_config.json');
  const found = existsSync(configFile) ? readJson(configFile, 'a tokenizer_config.json') : undefined;
  const config = (found ?? {}) as { eos_token?: string | { content?: string } };
  let tokenizer: Tokenizer;
  try {
    tokenizer = new Tokenizer(json, config);
  } catch (cause) {
    throw inputError(
      file,
      `is not a tokenizer (${(cause as Error).message.replace(/\.$/, '')}), expected a tokenizer.json`,
      '',
      cause,
    );
  }
  let size = 0;
  for (const id of tokenizer.get_vocab(true).values()) size = Math.max(size, id + 1);
  const end = config.eos_token;
  const named = typeof end === 'string' ? end : end?.content;
  const stopIds = [...(named === undefined ? [] : [named]), ...usualEnds]
    .map((token) => tokenizer.token_to_id(token))
    .filter((id) => id !== undefined);
  return {
    path: file,
    size,
    stopIds: [...new Set(stopIds)],
    encode: (text) => tokenizer.encode(text).ids,
    decode: (ids) =>
      ids.length === 0
        ? ''
        : tokenizer.decode([...ids], { skip_special_tokens: true, clean_up_tokenization_spaces: false }),
  };
}
