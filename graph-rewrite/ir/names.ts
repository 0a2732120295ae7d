/** Names in use in a model. Sibling subgraphs may use the same one, so uses are counted. */
export class Names {
  readonly #counts = new Map<string, number>();

  take(name: string): void {
    this.#counts.set(name, (this.#counts.get(name) ?? 0) + 1);
  }

  release(name: string): void {
    const count = (this.#counts.get(name) ?? 0) - 1;
    if (count > 0) this.#counts.set(name, count);
    else this.#counts.delete(name);
  }

  /** The name itself, or with the first free `_N` behind it. Does not take it. */
  unique(base: string): string {
    if (!this.#counts.has(base)) return base;
    for (let suffix = 1; ; suffix++) {
      const name = `${base}_${suffix}`;
      if (!this.#counts.has(name)) return name;
    }
  }
}
