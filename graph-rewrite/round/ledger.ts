import { packAlike, packedSizes, type Parts, type PackedLinear } from '../pack/linear.js';
import type { Product } from '../plan/products.js';
import type { RoundedLayer, RoundingStore } from './store.js';

/** Which products are rounded. Products with the same weights, orders and format are rounded once and share their tensors. */
export class Ledger {
  /** Number of a product's files: the place of the first product like it. */
  readonly #index = new Map<string, number>();
  readonly #records = new Map<number, RoundedLayer>();
  readonly #packed = new Map<number, PackedLinear>();
  readonly #products: ReadonlyMap<string, Product>;

  /** Finds what an earlier call left in the store. */
  constructor(
    products: readonly Product[],
    private readonly store: RoundingStore,
  ) {
    this.#products = new Map(products.map((product) => [product.name, product]));
    products.forEach((product) => {
      const first = products.findIndex((other) => other === product || packAlike(other, product));
      this.#index.set(product.name, first);
      const record = store.find(first, products[first]!.name);
      if (record) this.#records.set(first, record);
    });
  }

  has({ name }: Product): boolean {
    return this.#records.has(this.#index.get(name)!);
  }

  add({ name }: Product, parts: Parts, record: RoundedLayer): void {
    const index = this.#index.get(name)!;
    this.store.write(index, parts, record);
    this.#records.set(index, record);
  }

  /** Packed weights of a product that is rounded; the tensors read its file. */
  readonly weights = (name: string): PackedLinear | undefined => {
    const product = this.#products.get(name);
    if (!product || !this.has(product)) return undefined;
    const index = this.#index.get(name)!;
    let packed = this.#packed.get(index);
    if (!packed) {
      const { sources, spec } = product;
      this.#packed.set(index, (packed = this.store.read(index, packedSizes(name, sources, spec), spec)));
    }
    return packed;
  };

  /** How many there are to round. */
  get total(): number {
    return new Set(this.#index.values()).size;
  }

  /** What is rounded, in plan order. */
  get layers(): RoundedLayer[] {
    return [...this.#records].sort(([a], [b]) => a - b).map(([, record]) => record);
  }
}
