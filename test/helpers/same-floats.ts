import assert from 'node:assert/strict';

/** Asserts bit-equal floats; a NaN equals any NaN. */
export function assertSameFloats(actual: Float32Array, expected: Float32Array, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  for (let i = 0; i < expected.length; i++) {
    if (!Object.is(actual[i], expected[i])) {
      assert.fail(`${what}[${i}] is ${actual[i]}, expected ${expected[i]}`);
    }
  }
}

/** Asserts equal integers and says where the first difference is. */
export function assertSameCodes(actual: Int8Array, expected: Int8Array, what: string): void {
  assert.equal(actual.length, expected.length, `${what}: length`);
  const i = expected.findIndex((code, at) => actual[at] !== code);
  if (i >= 0) assert.fail(`${what}[${i}] is ${actual[i]}, expected ${expected[i]}`);
}
