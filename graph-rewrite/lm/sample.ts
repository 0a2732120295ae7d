import { usageError } from '../../ops/common/errors.js';

export interface SampleOptions {
  /** 0 takes the most probable token. Default 0. */
  readonly temperature?: number;
  /** Only the k most probable tokens; 0 = all. Default 0. */
  readonly topK?: number;
  /** Only the most probable tokens whose probabilities reach this sum. Default 1. */
  readonly topP?: number;
  /** Equal seeds give equal choices. Default 0. */
  readonly seed?: number;
}

/** Uniform numbers in [0, 1): mulberry32, a 32-bit generator whose whole state is its seed. */
export function randomNumbers(seed: number): () => number {
  let state = seed >>> 0;
  return () => {
    state = (state + 0x6d2b79f5) >>> 0;
    let mixed = Math.imul(state ^ (state >>> 15), state | 1);
    mixed = (mixed + Math.imul(mixed ^ (mixed >>> 7), mixed | 61)) ^ mixed;
    return ((mixed ^ (mixed >>> 14)) >>> 0) / 2 ** 32;
  };
}

/** Index of the largest value; the first of equal ones. */
export function argmax(values: Float32Array): number {
  let best = 0;
  for (let i = 1; i < values.length; i++) if (values[i]! > values[best]!) best = i;
  return best;
}

/** A function that chooses a token id from the logits [vocabulary] of one position. */
export function createSampler(options: SampleOptions = {}): (logits: Float32Array) => number {
  const { temperature = 0, topK = 0, topP = 1, seed = 0 } = options;
  if (!(temperature >= 0)) throw usageError('temperature', `is ${temperature}, expected 0 or more`);
  if (!Number.isInteger(topK) || topK < 0) throw usageError('topK', `is ${topK}, expected 0 or a positive integer`);
  if (!(topP > 0 && topP <= 1)) throw usageError('topP', `is ${topP}, expected a number above 0, at most 1`);
  if (temperature === 0) return argmax;
  const random = randomNumbers(seed);
  return (logits) => {
    const sorted = Uint32Array.from(logits, (_, i) => i).sort((a, b) => logits[b]! - logits[a]! || a - b);
    const kept = sorted.subarray(0, topK === 0 ? sorted.length : topK);
    const largest = logits[kept[0]!]!;
    const weights = Float64Array.from(kept, (id) => Math.exp((logits[id]! - largest) / temperature));
    const total = weights.reduce((sum, weight) => sum + weight, 0);
    let count = 0;
    let mass = 0;
    while (count < kept.length && mass < topP * total) mass += weights[count++]!;
    let rest = random() * mass;
    for (let i = 0; i < count; i++) {
      rest -= weights[i]!;
      if (rest < 0) return kept[i]!;
    }
    return kept[count - 1]!;
  };
}
