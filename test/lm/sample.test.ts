import { deepEqual, equal, ok, throws } from 'node:assert/strict';
import { createSampler, largest, penalized, randomNumbers, type SampleOptions } from '../../native/js/lm/sample.js';

const scores = Float32Array.of(0, 2, 1, -1);
const draw = (options: SampleOptions, count = 200, text: readonly number[] = []) => {
  const sample = createSampler(options);
  return Array.from({ length: count }, () => sample(scores, text));
};

/** How often each id was drawn, as shares. */
function shares(options: SampleOptions, text: readonly number[] = []): number[] {
  const count = 40_000;
  const counts = [0, 0, 0, 0];
  for (const id of draw(options, count, text)) counts[id]!++;
  return counts.map((each) => each / count);
}

/** Five standard deviations of a share of 40,000 draws are at most 0.0125. */
const assertShares = (actual: readonly number[], expected: readonly number[]) =>
  actual.forEach((share, id) =>
    ok(Math.abs(share - expected[id]!) < 0.0125, `id ${id}: ${share}, expected ${expected[id]}`),
  );

describe('sampling', () => {
  it('repeats itself with one seed and differs with another', () => {
    deepEqual(draw({ temperature: 1, seed: 5 }), draw({ temperature: 1, seed: 5 }));
    ok(draw({ temperature: 1, seed: 5 }).join() !== draw({ temperature: 1, seed: 6 }).join());
  });

  it('is greedy without a temperature', () => {
    deepEqual(new Set(draw({})), new Set([1]));
  });

  // exp of (0, 2, 1, -1) is (1, 7.389, 2.718, 0.368), together 11.475.
  it('draws with the probabilities of softmax', () => {
    assertShares(shares({ temperature: 1 }), [0.0871, 0.6439, 0.2369, 0.0321]);
  });

  // exp of (0, 1, 0.5, -0.5) is (1, 2.718, 1.649, 0.607), together 5.974.
  it('divides the scores by the temperature', () => {
    assertShares(shares({ temperature: 2 }), [0.1674, 0.455, 0.276, 0.1016]);
  });

  it('keeps the k most probable: 7.389 and 2.718 of 10.107', () => {
    assertShares(shares({ temperature: 1, topK: 2 }), [0, 0.7311, 0.2689, 0]);
    deepEqual(new Set(draw({ temperature: 1, topK: 1 })), new Set([1]));
  });

  it('keeps the most probable that reach p: 0.644 + 0.237 = 0.881, with the third 0.968', () => {
    assertShares(shares({ temperature: 1, topP: 0.85 }), [0, 0.7311, 0.2689, 0]);
    deepEqual(new Set(draw({ temperature: 1, topP: 0.6 })), new Set([1]));
    deepEqual(new Set(draw({ temperature: 1, topP: 0.9 })), new Set([0, 1, 2]));
  });

  it('takes p of what k leaves: 0.731 of two', () => {
    deepEqual(new Set(draw({ temperature: 1, topK: 2, topP: 0.73 })), new Set([1]));
    deepEqual(new Set(draw({ temperature: 1, topK: 2, topP: 0.74 })), new Set([1, 2]));
  });

  it('lowers tokens that were there: positive scores divided, negative multiplied, each once', () => {
    deepEqual(penalized(scores, [1, 3, 1], 4), Float32Array.of(0, 0.5, 1, -4));
    deepEqual(scores, Float32Array.of(0, 2, 1, -1));
    equal(createSampler({ repetitionPenalty: 4 })(scores, [1]), 2);
    equal(createSampler({ repetitionPenalty: 1.9 })(scores, [1]), 1);
  });

  it('finds the largest scores, the lower id of equal ones', () => {
    const random = randomNumbers(3);
    const values = Float32Array.from({ length: 500 }, () => Math.floor(random() * 50));
    const sorted = [...values.keys()].sort((a, b) => values[b]! - values[a]! || a - b);
    for (const k of [1, 2, 17, 499, 500]) deepEqual(largest(values, k), sorted.slice(0, k));
  });

  it('never draws what has no probability', () => {
    const sample = createSampler({ temperature: 1 });
    const row = Float32Array.of(-Infinity, 0, -Infinity, -1000);
    for (let i = 0; i < 100; i++) equal(sample(row), 1);
  });

  it('draws among infinite scores, and from nothing that is no number', () => {
    for (const options of [{ temperature: 1 }, { temperature: 1, topP: 0.9 }, { temperature: 1, topK: 2 }]) {
      const sample = createSampler(options);
      for (let i = 0; i < 20; i++) equal(sample(Float32Array.of(0, Infinity, 3)), 1);
      if (!options.topK) throws(() => sample(Float32Array.of(1, 2, NaN)), /scores: are NaN, expected numbers/);
    }
  });

  it('draws uniform numbers', () => {
    const random = randomNumbers(1);
    let sum = 0;
    for (let i = 0; i < 10000; i++) sum += random();
    ok(Math.abs(sum / 10000 - 0.5) < 0.01);
  });

  it('refuses settings without a meaning', () => {
    throws(() => createSampler({ temperature: -1 }), /temperature: is -1/);
    throws(() => createSampler({ topK: 1.5 }), /topK: is 1.5/);
    throws(() => createSampler({ topP: 0 }), /topP: is 0/);
    throws(() => createSampler({ repetitionPenalty: 0 }), /repetitionPenalty: is 0/);
    throws(() => createSampler({ seed: 0.5 }), /seed: is 0.5/);
  });
});
