import assert from 'node:assert/strict';
import { fromFloat16Bits } from '../../ops/common/float16.js';
import type { FormatName } from '../../ops/formats/formats.js';
import { quantizeSegment, roundHalfEven, weightScale } from '../../ops/formats/quantize-segment.js';
import { minifloatValues } from '../../ops/formats/minifloat.js';
import { fromSignMagnitude, toSignMagnitude } from '../../ops/formats/sign-magnitude.js';
import { quantizeRows, segmentsOf } from '../../ops/formats/segments.js';

function run(values: number[], format: FormatName, clip = 1): { codes: number[]; scale: number } {
  const codes = new Int8Array(values.length).fill(99);
  const scale = quantizeSegment(Float32Array.from(values), format, clip, codes);
  return { codes: [...codes], scale };
}

describe('quantizeSegment', () => {
  it('maps the largest magnitude to qmax and rounds ties to even', () => {
    // amax 7, scale 1: codes are the values rounded
    assert.deepEqual(run([7, 0.5, 1.5, 2.5, -0.5, -1.5, -2.5, -7], 's4'), {
      codes: [7, 0, 2, 2, 0, -2, -2, -7],
      scale: 1,
    });
    assert.deepEqual(run([127, 126.5, 125.5, -127, 0.49], 's8'), { codes: [127, 126, 126, -127, 0], scale: 1 });
  });

  it('scales by amax times the rounded clip / qmax', () => {
    assert.equal(run([3, -3], 's4').scale, Math.fround(3 * Math.fround(1 / 7)));
    assert.equal(run([3], 's8', 0.9).scale, Math.fround(3 * Math.fround(Math.fround(0.9) / 127)));
  });

  it('clamps to the whole code range when it clips', () => {
    // clip 0.5: scale 0.5, the value 7 would be 14, -7 would be -14
    assert.deepEqual(run([7, -7, 1, -4, 3.5], 's4', 0.5), { codes: [7, -8, 2, -8, 7], scale: 0.5 });
    assert.deepEqual(run([127, -127, 32, -64], 's8', 0.5), { codes: [127, -128, 64, -128], scale: 0.5 });
    assert.deepEqual(run([127, -127], 's8', 0.01).codes, [127, -128]);
  });

  it('stores s4_e4m3 codes as sign and magnitude, which are e4m3 patterns of code / 512', () => {
    const { codes, scale } = run([7, -7, 1, -4, -0.25, 0.5, -0.5], 's4_e4m3', 0.5);
    assert.deepEqual(
      { codes: codes.map((code) => code & 0xff), scale },
      { codes: [7, 0x88, 2, 0x88, 0, 1, 0x81], scale: 0.5 },
    );
    const values = minifloatValues('e4m3');
    const all = Int8Array.from({ length: 16 }, (_, i) => i - 8);
    const stored = all.slice();
    toSignMagnitude(stored);
    assert.deepEqual(
      [...stored].map((byte) => values[byte & 0xff]! * 512),
      [...all],
    );
    assert.deepEqual(fromSignMagnitude(stored), all);
  });

  it('gives zeros scale 1, also just below 2^-100, and quantizes from there on', () => {
    assert.deepEqual(run([0, -0, 0], 's4'), { codes: [0, 0, 0], scale: 1 });
    assert.deepEqual(run([1e-45, -(2 ** -100) * (1 - 2 ** -24)], 's4'), { codes: [0, 0], scale: 1 });
    assert.deepEqual(run([2 ** -100, -(2 ** -102)], 's4'), {
      codes: [7, -2],
      scale: Math.fround(2 ** -100 * Math.fround(1 / 7)),
    });
  });

  it('gives NaN and infinities zero codes and scale NaN', () => {
    for (const bad of [NaN, Infinity, -Infinity]) {
      assert.deepEqual(run([1, bad, 5], 's8'), { codes: [0, 0, 0], scale: NaN });
    }
  });

  it('takes the largest float', () => {
    const max = (2 - 2 ** -23) * 2 ** 127;
    assert.deepEqual(run([max, -max, max / 4], 's4').codes, [7, -7, 2]);
  });

  it('rounds half to even', () => {
    const cases: [number, number][] = [
      [0.5, 0],
      [1.5, 2],
      [-0.5, 0],
      [-2.5, -2],
      [2.4999, 2],
      [-3.5001, -4],
    ];
    for (const [x, rounded] of cases) assert.equal(roundHalfEven(x) + 0, rounded);
  });

  it('stores weight scales as float16, never 0', () => {
    const { bits, scale } = weightScale(3, 's4', 1);
    assert.equal(scale, fromFloat16Bits(bits));
    assert.ok(Math.abs(scale - 3 / 7) < 3 / 7 / 2048);
    assert.deepEqual(weightScale(0, 's4', 1), { bits: 1, scale: 2 ** -24 });
  });
});

describe('segments of a row', () => {
  it('cuts the body into groups and puts the outliers last, in s8 without clipping', () => {
    assert.deepEqual(segmentsOf({ format: 's4', groupSize: 16, outlierChannels: 5, clip: 0.9 }, 37), [
      { start: 0, length: 16, format: 's4', clip: 0.9 },
      { start: 16, length: 16, format: 's4', clip: 0.9 },
      { start: 32, length: 5, format: 's8', clip: 1 },
    ]);
    assert.equal(segmentsOf({ format: 's8', groupSize: 0, outlierChannels: 0, clip: 1 }, 37).length, 1);
  });

  it('gathers before it cuts', () => {
    const rows = Float32Array.of(7, 1, 127, 2, /* next row */ 0, 0, 0, 14);
    const row = { format: 's4', groupSize: 0, outlierChannels: 1, clip: 1 } as const;
    const { q, scale } = quantizeRows(rows, 4, row, Int32Array.of(1, 0, 3, 2));
    assert.deepEqual([...q], [1, 7, 2, 127, 0, 0, 7, 0]);
    assert.deepEqual([...scale], [1, 1, 2, 1]);
  });

  it('refuses what cannot be cut, with the values', () => {
    const row = { format: 's4', groupSize: 16, outlierChannels: 0, clip: 1 } as const;
    const rows = new Float32Array(40);
    assert.throws(() => quantizeRows(rows, 40, row), /group_size is 16, expected 0 or a divisor of .* \(40\)/);
    assert.throws(
      () => quantizeRows(rows, 40, { ...row, groupSize: 20 }),
      /group_size is 20, expected 0 or a multiple/,
    );
    assert.throws(() => quantizeRows(rows, 40, { ...row, outlierChannels: 40 }), /outlier_channels is 40/);
    assert.throws(() => quantizeRows(rows, 40, { ...row, groupSize: 0, clip: 1.5 }), /clip is 1.5/);
  });
});
