/**
 * Where the tokens of a batch stand: columns of the cache, positions, padding. Pure bookkeeping, so that it can be checked by eye.
 *
 *     left   . . a b | c d        right   a b . . |       and after two tokens   a b c d .
 *            e f g h | i j                e f g h |                              e f g h i
 *
 * Left: every row grows at the end. Right: each row grows behind its own last token.
 */
import type { Padding } from './facts.js';
import type { Step } from './feeds.js';

export class Layout {
  readonly batch: number;
  readonly #padding: Padding;
  /** Tokens of each sequence in the cache. */
  readonly #lengths: number[];
  /** Columns of the cache. */
  #columns = 0;
  /** Columns of padding before each sequence. */
  readonly #before: number[];

  constructor(padding: Padding, batch: number) {
    this.#padding = padding;
    this.batch = batch;
    this.#lengths = Array<number>(batch).fill(0);
    this.#before = Array<number>(batch).fill(0);
  }

  /** Tokens of each sequence in the cache. */
  get lengths(): readonly number[] {
    return this.#lengths;
  }

  /** Columns that a sequence takes up of the cache: padding counts where the cache has rows for it. */
  used(row: number): number {
    return this.#padding === 'left' ? this.#columns : this.#lengths[row]!;
  }

  /** The prompts as one step. They are padded with id 0, which the mask hides. */
  prompt(prompts: readonly (readonly number[])[], maskColumns?: number): Step {
    const tokens = prompts.reduce((most, prompt) => Math.max(most, prompt.length), 0);
    const ids = new Int32Array(this.batch * tokens);
    const positions = new Int32Array(this.batch * tokens);
    prompts.forEach((prompt, row) => {
      const before = this.#padding === 'left' ? tokens - prompt.length : 0;
      this.#before[row] = before;
      this.#lengths[row] = prompt.length;
      ids.set(prompt, row * tokens + before);
      for (let i = 0; i < prompt.length; i++) positions[row * tokens + before + i] = i;
    });
    this.#columns = tokens;
    const lastOnly = this.lastRows(tokens).every((row) => row === tokens - 1);
    return { batch: this.batch, tokens, start: 0, ids, positions, mask: this.#mask(maskColumns), lastOnly };
  }

  /**
   * One more token for every sequence.
   * @param held sequences that are finished: their token goes where the last one was (right) or is of no use (left), and their length stays
   */
  next(ids: ArrayLike<number>, held: readonly boolean[] = [], maskColumns?: number): Step {
    const start = this.#columns;
    const longest = Math.max(...this.#lengths);
    for (let row = 0; row < this.batch; row++) if (!held[row]) this.#lengths[row]!++;
    this.#columns = this.#padding === 'left' ? start + 1 : Math.max(longest, ...this.#lengths);
    const positions = this.#lengths.map((length) => length - 1);
    return { batch: this.batch, tokens: 1, start, ids, positions, mask: this.#mask(maskColumns), lastOnly: true };
  }

  /** Which row of a run's `tokens` rows of scores continues each sequence. */
  lastRows(tokens: number): number[] {
    return this.#lengths.map((length) => (tokens === 1 || this.#padding === 'left' ? tokens : length) - 1);
  }

  /** [batch, columns]; with more columns than there are tokens, zeros behind. */
  #mask(columns = this.#columns): Uint8Array {
    const mask = new Uint8Array(this.batch * columns);
    for (let row = 0; row < this.batch; row++) {
      const first = row * columns + this.#before[row]!;
      const last = this.#padding === 'left' ? row * columns + this.#columns : first + this.#lengths[row]!;
      mask.fill(1, first, last);
    }
    return mask;
  }
}
