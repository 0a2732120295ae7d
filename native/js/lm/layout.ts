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
  readonly #padding: Padding;
  /** Tokens of each sequence in the cache. */
  #lengths: number[];
  /** Columns of the cache. */
  #columns = 0;
  /** Columns of padding before each sequence. */
  #before: number[];
  /** Of the newest tokens of each sequence, the last one's column among the run's. */
  #last: number[];

  constructor(padding: Padding, batch: number) {
    this.#padding = padding;
    this.#lengths = Array<number>(batch).fill(0);
    this.#before = Array<number>(batch).fill(0);
    this.#last = Array<number>(batch).fill(0);
  }

  get batch(): number {
    return this.#lengths.length;
  }

  /** Tokens of each sequence in the cache. */
  get lengths(): readonly number[] {
    return this.#lengths;
  }

  /** Columns that a sequence takes up of the cache: padding counts where the cache has rows for it. */
  used(row: number): number {
    return this.#padding === 'left' ? this.#columns : this.#lengths[row]!;
  }

  /** Beginnings of all texts. They are padded with id 0, which the mask hides. */
  begin(texts: readonly (readonly number[])[]): Step {
    const tokens = texts.reduce((most, text) => Math.max(most, text.length), 0);
    const ids = new Int32Array(this.batch * tokens);
    const positions = new Int32Array(this.batch * tokens);
    texts.forEach((text, row) => {
      const before = this.#padding === 'left' ? tokens - text.length : 0;
      this.#before[row] = before;
      this.#lengths[row] = text.length;
      this.#last[row] = before + text.length - 1;
      ids.set(text, row * tokens + before);
      for (let i = 0; i < text.length; i++) positions[row * tokens + before + i] = i;
    });
    this.#columns = tokens;
    const lastOnly = this.#last.every((row) => row === tokens - 1);
    return { batch: this.batch, tokens, start: 0, ids, positions, mask: this.#mask(), lastOnly };
  }

  /**
   * More tokens, equally many for every sequence.
   * @param texts the new tokens of each
   * @param held sequences that are finished: their tokens go where the last ones were (right) or are of no use (left), and their length stays
   * @param maskColumns how wide the mask is; default: as many columns as there are
   */
  append(texts: readonly (readonly number[])[], held: readonly boolean[] = [], maskColumns?: number): Step {
    const start = this.#columns;
    const tokens = texts[0]!.length;
    const positions = new Int32Array(this.batch * tokens);
    texts.forEach((_, row) => {
      if (!held[row]) this.#lengths[row]! += tokens;
      this.#last[row] = tokens - 1;
      const first = Math.max(0, this.#lengths[row]! - tokens);
      for (let i = 0; i < tokens; i++) positions[row * tokens + i] = first + i;
    });
    this.#columns = this.#padding === 'left' ? start + tokens : Math.max(start, ...this.#lengths);
    const ids = Int32Array.from(texts.flat());
    return { batch: this.batch, tokens, start, ids, positions, mask: this.#mask(maskColumns), lastOnly: true };
  }

  /** Leaves only these rows, in this order. */
  keep(rows: readonly number[]): void {
    const kept = (values: readonly number[]) => rows.map((row) => values[row]!);
    this.#lengths = kept(this.#lengths);
    this.#before = kept(this.#before);
    this.#last = kept(this.#last);
  }

  /** Which row of a run's `tokens` rows of scores continues each sequence. */
  lastRows(tokens: number): number[] {
    return this.#last.map((row) => (tokens === 1 ? 0 : row));
  }

  /**
   * [batch, columns]; with more columns than there are tokens, zeros behind. Tokens behind the end of a finished sequence are hidden too: a graph that
   * counts positions from the mask would run out of its table.
   */
  #mask(columns = this.#columns): Uint8Array {
    const mask = new Uint8Array(this.batch * columns);
    for (let row = 0; row < this.batch; row++) {
      const first = row * columns + this.#before[row]!;
      mask.fill(1, first, first + this.#lengths[row]!);
    }
    return mask;
  }
}
