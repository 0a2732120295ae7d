/** Seeded random values, so that a failure can be repeated. */
import { roundToFloat16 } from '../../ops/common/float16.js';
import type { GraphType } from './op-model.js';

/** Set TEST_SEED to repeat a run; tests print it in their titles. */
export const seed = Number(process.env.TEST_SEED ?? 20250301);

export class Random {
  #state: number;

  constructor(stream: string | number) {
    this.#state = seed;
    for (const char of String(stream)) this.#state = Math.imul(this.#state ^ char.charCodeAt(0), 0x01000193);
  }

  /** Uniform in [0, 1). */
  next(): number {
    this.#state = (this.#state + 0x6d2b79f5) | 0;
    let t = Math.imul(this.#state ^ (this.#state >>> 15), 1 | this.#state);
    t = (t + Math.imul(t ^ (t >>> 7), 61 | t)) ^ t;
    return ((t ^ (t >>> 14)) >>> 0) / 2 ** 32;
  }

  /** An integer in min … max. */
  int(min: number, max: number): number {
    return min + Math.floor(this.next() * (max - min + 1));
  }

  normal(): number {
    return Math.sqrt(-2 * Math.log(1 - this.next())) * Math.cos(2 * Math.PI * this.next());
  }

  /** Normally distributed values that `type` can hold. */
  normals(type: GraphType, count: number): Float32Array {
    const values = Float32Array.from({ length: count }, () => this.normal());
    return type === 'float16' ? values.map(roundToFloat16) : values;
  }

  permutation(count: number): Int32Array {
    const order = Int32Array.from({ length: count }, (_, i) => i);
    for (let i = count - 1; i > 0; i--) {
      const j = this.int(0, i);
      [order[i], order[j]] = [order[j]!, order[i]!];
    }
    return order;
  }

  codes(count: number, min: number, max: number): Int8Array {
    return Int8Array.from({ length: count }, () => this.int(min, max));
  }
}

const float32Max = (2 - 2 ** -23) * 2 ** 127;

/** What a row of activations may look like, by name; each gives one value of the row. */
const rowKinds: Readonly<Record<string, (random: Random, k: number, type: GraphType) => number>> = {
  normal: (random) => random.normal(),
  'one huge outlier': (random, k, type) => (k === 3 ? (type === 'float16' ? 60000 : 3e30) : random.normal()),
  zeros: (_, k) => (k % 2 ? 0 : -0),
  ties: (random) => random.int(-14, 14) / 2,
  subnormals: (random, _, type) => random.int(-1000, 1000) * (type === 'float16' ? 2 ** -24 : 2 ** -149),
  'the largest floats': (random, _, type) => (random.int(0, 1) ? 1 : -1) * (type === 'float16' ? 65504 : float32Max),
  'wide range': (random) => random.normal() * 2 ** random.int(-20, 6),
  'a NaN': (random, k) => (k === 7 ? NaN : random.normal()),
  'an infinity': (random, k) => (k === 11 ? -Infinity : random.normal()),
  large: (random) => random.normal() * 50,
  'equal values': () => -1.25,
};

/** M rows of K values, cycling through every kind of row. */
export function rows(random: Random, type: GraphType, M: number, K: number): Float32Array {
  const kinds = Object.values(rowKinds);
  const values = new Float32Array(M * K);
  for (let m = 0; m < M; m++) {
    const kind = kinds[m % kinds.length]!;
    for (let k = 0; k < K; k++) values[m * K + k] = kind(random, k, type);
  }
  return type === 'float16' ? values.map(roundToFloat16) : values;
}
