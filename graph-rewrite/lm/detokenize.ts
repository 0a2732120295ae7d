import type { TextTokenizer } from './tokenizer.js';

const replacement = '\ufffd';
/** Bytes of the longest UTF-8 character: an ending that is incomplete after so many tokens is not UTF-8 and never will be. */
const longestCharacter = 4;

/**
 * Turns ids into text one at a time. A character whose bytes are spread over several tokens comes out when it is complete, and a
 * tokenizer that drops the space of a first word is always shown the tokens before.
 */
export class Detokenizer {
  readonly #tokenizer: TextTokenizer;
  #ids: number[] = [];
  /** Ids before this index have been given out as text. */
  #given = 0;

  constructor(tokenizer: TextTokenizer) {
    this.#tokenizer = tokenizer;
  }

  /** The text that `id` completes; empty while a character is incomplete. */
  push(id: number): string {
    this.#ids.push(id);
    const text = this.#tokenizer.decode(this.#ids);
    const before = this.#tokenizer.decode(this.#ids.slice(0, this.#given));
    if (text.endsWith(replacement) && this.#ids.length - this.#given < longestCharacter) return '';
    // The tokens last given out are the context of the next one; earlier ones cannot matter any more.
    this.#ids = this.#ids.slice(this.#given);
    this.#given = this.#ids.length;
    return text.slice(before.length);
  }

  /** What is left at the end, incomplete characters as U+FFFD. */
  end(): string {
    const before = this.#tokenizer.decode(this.#ids.slice(0, this.#given));
    const text = this.#tokenizer.decode(this.#ids).slice(before.length);
    this.#ids = [];
    this.#given = 0;
    return text;
  }
}
