/**
 * Ends a text that comes in pieces in front of the first of some words. What could be the beginning of one is held back until it is known
 * not to be.
 */
export class StopText {
  readonly #stops: readonly string[];
  #held = '';
  #stopped = false;

  /** @param stops texts to stop at; empty ones are ignored */
  constructor(stops: readonly string[]) {
    this.#stops = stops.filter((stop) => stop !== '');
  }

  /** Whether a stop was found; everything after it is dropped. */
  get stopped(): boolean {
    return this.#stopped;
  }

  /** The text that `piece` makes certain. */
  push(piece: string): string {
    if (this.#stopped) return '';
    const text = this.#held + piece;
    const found = this.#stops.map((stop) => text.indexOf(stop)).filter((at) => at >= 0);
    this.#stopped = found.length > 0;
    const certain = this.#stopped ? Math.min(...found) : text.length - this.#possibleStart(text);
    this.#held = this.#stopped ? '' : text.slice(certain);
    return text.slice(0, certain);
  }

  /** What was held back, when no more comes. */
  end(): string {
    const rest = this.#held;
    this.#held = '';
    return rest;
  }

  /** Characters at the end of `text` that a stop may begin with. */
  #possibleStart(text: string): number {
    const longest = Math.max(0, ...this.#stops.map((stop) => stop.length - 1));
    for (let length = Math.min(longest, text.length); length > 0; length--)
      if (this.#stops.some((stop) => stop.startsWith(text.slice(text.length - length)))) return length;
    return 0;
  }
}
