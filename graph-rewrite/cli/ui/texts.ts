/**
 * Texts that are written at once, shown one after the other: the first as it comes, the others when it is their turn. Nothing is shown before
 * the first piece, so that prompts that are refused leave no text behind.
 */
export class TextsView {
  readonly #write: (text: string) => void;
  readonly #waiting: string[];
  readonly #done: boolean[];
  #current = 0;

  /** @param beginnings what each text begins with */
  constructor(write: (text: string) => void, beginnings: readonly string[]) {
    this.#write = write;
    this.#waiting = [...beginnings];
    this.#done = beginnings.map(() => false);
  }

  /** A piece of a text. */
  push(index: number, piece: string): void {
    this.#waiting[index] += piece;
    this.#show();
  }

  /** A text is complete. */
  end(index: number): void {
    this.#done[index] = true;
    this.#show();
  }

  #show(): void {
    while (this.#current < this.#waiting.length) {
      this.#write(this.#waiting[this.#current]!);
      this.#waiting[this.#current] = '';
      if (!this.#done[this.#current]) return;
      this.#current++;
      if (this.#current < this.#waiting.length) this.#write('\n\n');
    }
  }
}
