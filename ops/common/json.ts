import { readFileSync } from 'node:fs';
import { inputError } from './errors.js';

/**
 * Text of a file or of a model's metadata as JSON.
 * @param at where the text is from, for errors
 * @param what it should be, with its article
 * @throws input error if it is no JSON
 */
export function parseJson(text: string, at: string, what: string): unknown {
  try {
    return JSON.parse(text);
  } catch (cause) {
    // The reason quotes the text; what is no JSON may be anything, so only what prints is repeated.
    const why = (cause as Error).message.replace(/[^\x20-\x7e]+/g, '…');
    throw inputError(at, `is not JSON (${why}), expected ${what}`, '', cause);
  }
}

/** The same for a list. @throws input error if it is none */
export function parseList<T>(text: string, at: string, what: string): T[] {
  const value = parseJson(text, at, what);
  if (!Array.isArray(value)) throw inputError(at, `is no list, expected ${what}`);
  return value as T[];
}

/** A JSON file. @throws input error if it cannot be read or is no JSON */
export function readJson(path: string, what: string): unknown {
  let text: string;
  try {
    text = readFileSync(path, 'utf8');
  } catch (cause) {
    throw inputError(path, `cannot be read (${(cause as Error).message}), expected ${what}`, 'Check the path.', cause);
  }
  return parseJson(text, path, what);
}
