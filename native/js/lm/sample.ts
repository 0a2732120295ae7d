import { inputError, usageError } from '../../../ops/common/errors.js';

export interface SampleOptions {
  /** Scores are divided by it; 0 takes the most probable token. Default 0. */
  readonly temperature?: number;
  /** Only the k most probable tokens; 0 = all. Default 0. */
  readonly topK?: number;
  /** Only the most probable tokens (of those that topK leaves) whose probabilities reach this sum. Default 1. */
  readonly topP?: number;
  /**
   * Scores of tokens that the text has already are divided by it where positive, and multiplied where negative (Keskar et al., CTRL,
   * 2019). Default 1: nothing.
   */
  readonly repetitionPenalty?: number;
  /** Equal seeds give equal choices. Default 0. */
  readonly seed?: number;
}

/**
 * Chooses a token id from the scores of one position.
 * @param scores [vocabulary]; or those of `ids` alone, the largest first, of which there are `topK`
 * @param text the ids so far; of no matter without a repetition penalty
 */
export type Sampler = (scores: Float32Array, text?: Iterable<number>, ids?: ArrayLike<number>) => number;

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

/** How many of the largest scores a choice depends on; undefined: on all. */
export function scoresNeeded({ temperature = 0, topK = 0, repetitionPenalty = 1 }: SampleOptions): number | undefined {
  if (repetitionPenalty !== 1) return undefined;
  if (temperature === 0) return 1;
  return topK > 0 ? topK : undefined;
}

/** @throws usage error that names the setting without a meaning */
export function checkSampling(options: SampleOptions): void {
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1, seed = 0 } = options;
  const positive = (value: number) => Number.isFinite(value) && value > 0;
  if (!(Number.isFinite(temperature) && temperature >= 0))
    throw usageError('temperature', `is ${temperature}, expected 0 or more`);
  if (!Number.isInteger(topK) || topK < 0) throw usageError('topK', `is ${topK}, expected 0 or a positive integer`);
  if (!(topP > 0 && topP <= 1)) throw usageError('topP', `is ${topP}, expected a number above 0, at most 1`);
  if (!positive(repetitionPenalty))
    throw usageError('repetitionPenalty', `is ${repetitionPenalty}, expected a number above 0`);
  if (!Number.isSafeInteger(seed)) throw usageError('seed', `is ${seed}, expected an integer`);
}

/**
 * A function that chooses token ids: penalty, temperature, topK, topP, in this order, then a draw from what is left.
 * The function throws an input error if the scores are NaN.
 * @throws usage error that names the setting without a meaning
 */
export function createSampler(options: SampleOptions = {}): Sampler {
  checkSampling(options);
  const { temperature = 0, topK = 0, topP = 1, repetitionPenalty = 1, seed = 0 } = options;
  const random = randomNumbers(seed);
  return (given, text = [], ids) => {
    const scores = ids || repetitionPenalty === 1 ? given : penalized(given, text, repetitionPenalty);
    const best = ids ? 0 : argmax(scores);
    // What is not a number is never above another, so it is found as the first only where no choice has a meaning.
    if (Number.isNaN(scores[best])) throw notNumbers();
    if (ids) return ids[temperature === 0 ? 0 : draw(candidates(scores, 0, true, temperature, topP), random())]!;
    if (temperature === 0) return best;
    if (topK === 0) return draw(candidates(scores, best, false, temperature, topP), random());
    const top = largest(scores, Math.min(topK, scores.length));
    const kept = Float32Array.from(top, (id) => scores[id]!);
    return top[draw(candidates(kept, 0, true, temperature, topP), random())]!;
  };
}

/** The scores with those of the text's tokens lowered, each once. */
export function penalized(scores: Float32Array, text: Iterable<number>, penalty: number): Float32Array {
  const lowered = Float32Array.from(scores);
  for (const id of new Set(text)) {
    const score = lowered[id];
    if (score !== undefined) lowered[id] = score > 0 ? score / penalty : score * penalty;
  }
  return lowered;
}

/** Ids of the k largest scores, the largest first; the lower id of equal ones. */
export function largest(scores: Float32Array, k: number): number[] {
  const ids: number[] = [];
  for (let id = 0; id < scores.length; id++) {
    const score = scores[id]!;
    if (ids.length === k && !(score > scores[ids[k - 1]!]!)) continue;
    let at = Math.min(ids.length, k - 1);
    for (; at > 0 && score > scores[ids[at - 1]!]!; at--) ids[at] = ids[at - 1]!;
    ids[at] = id;
  }
  return ids;
}

const notNumbers = () =>
  inputError('scores', 'are NaN, expected numbers', 'See "The result is NaN" in docs/troubleshooting.md.');

interface Candidates {
  /** Which of the scores; undefined: candidate i is score i. */
  readonly indices: ArrayLike<number> | undefined;
  /** In proportion to the probabilities. */
  readonly weights: Float64Array;
}

/** Softmax of the scores, of which `best` is the highest, cut to the most probable that reach `topP`. */
function candidates(
  scores: Float32Array,
  best: number,
  sorted: boolean,
  temperature: number,
  topP: number,
): Candidates {
  const highest = scores[best]!;
  // Infinite scores have no difference: equal ones are equally probable.
  const weights = Float64Array.from(scores, (score) =>
    score === highest ? 1 : Math.exp((score - highest) / temperature),
  );
  const total = sum(weights);
  if (Number.isNaN(total)) throw notNumbers();
  if (topP === 1) return { indices: undefined, weights };
  // Tokens below this share are together less than 1 − topP, so only the others need to be sorted.
  const least = ((1 - topP) * total) / weights.length;
  const kept: number[] = [];
  for (let i = 0; i < weights.length; i++) if (weights[i]! >= least) kept.push(i);
  if (!sorted) kept.sort((a, b) => weights[b]! - weights[a]! || a - b);
  let count = 0;
  let mass = 0;
  while (count < kept.length && mass < topP * total) mass += weights[kept[count++]!]!;
  const indices = kept.slice(0, count);
  return { indices, weights: Float64Array.from(indices, (i) => weights[i]!) };
}

/** Index of the score that a uniform number in [0, 1) falls on. */
function draw({ indices, weights }: Candidates, uniform: number): number {
  let rest = uniform * sum(weights);
  let chosen = 0; // the last possible one, should rounding leave a rest
  for (let i = 0; i < weights.length && rest >= 0; i++) {
    rest -= weights[i]!;
    if (weights[i]! > 0) chosen = i;
  }
  return indices ? indices[chosen]! : chosen;
}

function sum(values: Float64Array): number {
  let total = 0;
  for (let i = 0; i < values.length; i++) total += values[i]!;
  return total;
}
