/** Minifloat codes against the format definitions, over all codes and the points where rounding turns. */
import assert from 'node:assert/strict';
import { weightFormats, packedRowBytes } from '../../ops/formats/formats.js';
import {
  minifloats,
  minifloatValues,
  packNibbles,
  toMinifloat,
  unpackNibbles,
  type MinifloatName,
} from '../../ops/formats/minifloat.js';
import { quantizeSegment, weightScale } from '../../ops/formats/quantize-segment.js';

const formats = Object.keys(minifloats) as MinifloatName[];
const round = (x: number, format: MinifloatName): number => minifloatValues(format)[toMinifloat(x, format)]!;

/** Magnitudes of the finite codes, in rising order. */
const magnitudes = (format: MinifloatName): number[] => {
  const values = [...minifloatValues(format)];
  return values.slice(0, values.indexOf(minifloats[format].max) + 1);
};

/** e4m3's and e5m2's bits put into a float16: independent of the formula under test. */
function viaFloat16(code: number, format: 'e4m3' | 'e5m2'): number {
  const sign = code & 0x80 ? -1 : 1;
  const [exponentBits, mantissaBits] = format === 'e4m3' ? [4, 3] : [5, 2];
  const exponent = (code >> mantissaBits) & ((1 << exponentBits) - 1);
  const mantissa = code & ((1 << mantissaBits) - 1);
  const bias = 2 ** (exponentBits - 1) - 1;
  if (format === 'e4m3' && (code & 0x7f) === 0x7f) return NaN;
  if (format === 'e5m2' && exponent === 31) return mantissa === 0 ? sign * Infinity : NaN;
  const unit = 2 ** (Math.max(exponent, 1) - bias - mantissaBits);
  return sign * unit * (mantissa + (exponent > 0 ? 2 ** mantissaBits : 0));
}

describe('minifloat codes', () => {
  it('e2m1, e3m0 and bnb_fp4 have the values of their tables', () => {
    assert.deepEqual(magnitudes('e2m1'), [0, 0.5, 1, 1.5, 2, 3, 4, 6]);
    assert.deepEqual(magnitudes('e3m0'), [0, 0.25, 0.5, 1, 2, 4, 8, 16]);
    assert.deepEqual(magnitudes('bnb_fp4'), [0, 0.0625, 2, 3, 4, 6, 8, 12]);
    for (const format of ['e2m1', 'e3m0', 'bnb_fp4'] as const) {
      const values = minifloatValues(format);
      for (let code = 0; code < 8; code++) assert.equal(values[code + 8], -values[code]!);
    }
  });

  for (const format of ['e4m3', 'e5m2'] as const) {
    it(`all 256 ${format} codes have the value of their bits`, () => {
      for (let code = 0; code < 256; code++) {
        assert.ok(Object.is(minifloatValues(format)[code], viaFloat16(code, format)), `code ${code}`);
      }
    });
  }

  it('the limits are those of the formats', () => {
    assert.equal(minifloatValues('e4m3')[1], 2 ** -9);
    assert.equal(minifloatValues('e4m3')[8], 2 ** -6);
    assert.equal(magnitudes('e4m3').at(-1), 448);
    assert.equal(minifloatValues('e5m2')[1], 2 ** -16);
    assert.equal(minifloatValues('e5m2')[4], 2 ** -14);
    assert.equal(magnitudes('e5m2').at(-1), 57344);
  });

  for (const format of formats) {
    it(`${format}: every finite code comes back, halves go to the even code, a bit off them does not`, () => {
      const list = magnitudes(format);
      const sign = 1 << (minifloats[format].bits - 1);
      list.forEach((value, code) => {
        assert.equal(toMinifloat(value, format), code);
        assert.equal(toMinifloat(-value, format), code | sign);
        if (code + 1 === list.length) return;
        const middle = (value + list[code + 1]!) / 2;
        assert.equal(toMinifloat(middle, format), code + (code % 2), `${middle}`);
        assert.equal(toMinifloat(middle * (1 - 2 ** -24), format), code);
        assert.equal(toMinifloat(middle * (1 + 2 ** -23), format), code + 1);
      });
    });

    it(`${format}: saturates, keeps the sign of zero, refuses NaN`, () => {
      const { max } = minifloats[format];
      for (const x of [max * 1.01, max * 1.5, 3e38, Infinity]) {
        assert.equal(round(x, format), max);
        assert.equal(round(-x, format), -max);
      }
      assert.ok(Object.is(round(-0, format), -0));
      assert.ok(Object.is(round(-1e-30, format), -0));
      assert.throws(() => toMinifloat(NaN, format), /NaN/);
    });
  }

  it('rounds the published examples of ZeroQuant-FP, 100 to the even neighbour', () => {
    const x = [-0.4, -0.3, -0.2, -0.1, 0, 0.1, 0.2, 0.3, 0.4, 0.5, 1, 10, 100];
    const e5m2 = [-0.375, -0.3125, -0.1875, -0.09375, 0, 0.09375, 0.1875, 0.3125, 0.375, 0.5, 1, 10, 96];
    const e4m3 = [-0.40625, -0.3125, -0.203125, -0.1015625, 0, 0.1015625, 0.203125, 0.3125, 0.40625, 0.5, 1, 10, 96];
    assert.deepEqual(
      x.map((each) => round(each, 'e5m2')),
      e5m2,
    );
    assert.deepEqual(
      x.map((each) => round(each, 'e4m3')),
      e4m3,
    );
    assert.ok(Math.abs(round(0.001, 'e5m2') - 0.001) < 0.0001);
    assert.equal(round(0.001, 'e4m3'), 2 ** -9);
  });

  it('e2m1 times a power of two from 2^-8 to 2^6 is an e4m3 value, and no further', () => {
    for (let k = -8; k <= 6; k++) {
      for (const value of magnitudes('e2m1')) assert.equal(round(value * 2 ** k, 'e4m3'), value * 2 ** k);
    }
    assert.notEqual(round(0.5 * 2 ** -9, 'e4m3'), 0.5 * 2 ** -9);
    assert.notEqual(round(6 * 2 ** 7, 'e4m3'), 6 * 2 ** 7);
  });

  it('nibbles come back, also of odd rows', () => {
    const codes = Int8Array.from({ length: 2 * 33 }, (_, i) => (i * 7) % 16);
    assert.deepEqual(unpackNibbles(packNibbles(codes, 2, 33), 2, 33), codes);
    assert.throws(() => unpackNibbles(new Uint8Array(3), 2, 4), /3 bytes given, expected 2 x 2/);
  });

  it('rows take half a byte or a byte a code', () => {
    const bytes = weightFormats.map((format) => [format, packedRowBytes(format, 33)]);
    assert.deepEqual(Object.fromEntries(bytes), { s4: 17, s8: 33, e2m1: 17, e3m0: 17, bnb_fp4: 17, e4m3: 33 });
  });
});

describe('minifloat segments', () => {
  it('maps the largest magnitude to the largest value', () => {
    const codes = new Int8Array(4);
    const scale = quantizeSegment(Float32Array.of(448, -1, 0.5, -0), 'e4m3', 1, codes);
    assert.equal(scale, Math.fround(448 * Math.fround(1 / 448)));
    const values = minifloatValues('e4m3');
    assert.deepEqual(
      [...codes].map((code) => values[code & 255]),
      [448, -1, 0.5, -0],
    );
  });

  it('saturates what clip cuts off', () => {
    const codes = new Int8Array(2);
    quantizeSegment(Float32Array.of(100, -100), 'e5m2', 0.5, codes);
    assert.deepEqual([...codes], [0x7b, 0xfb - 256]);
  });

  it('gives zeros, and NaN for a segment with one', () => {
    const codes = new Int8Array(2).fill(9);
    assert.equal(quantizeSegment(Float32Array.of(0, -0), 'e4m3', 1, codes), 1);
    assert.deepEqual([...codes], [0, 0]);
    assert.ok(Number.isNaN(quantizeSegment(Float32Array.of(1, NaN), 'e4m3', 1, codes)));
    assert.deepEqual([...codes], [0, 0]);
  });

  it('takes weight scales of the largest value', () => {
    assert.equal(weightScale(6, 'e2m1', 1).scale, 1);
    assert.equal(weightScale(16, 'e3m0', 1).scale, 1);
    assert.equal(weightScale(12, 'bnb_fp4', 1).scale, 1);
    assert.equal(weightScale(448, 'e4m3', 0.5).scale, 0.5);
  });
});
