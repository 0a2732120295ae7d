import assert from 'node:assert/strict';
import { fromFloat16Bits, toFloat16Bits } from '../../ops/common/float16.js';
import { dequantizeKvRow, kvRowBytes, quantizeKvRow, type KvBits } from '../../ops/formats/kv.js';
import { Random } from '../helpers/random.js';

function quantize(values: readonly number[], bits: KvBits = 4, clip = 1) {
  const codes = new Uint8Array(kvRowBytes(values.length, bits));
  const { scale, min } = quantizeKvRow(Float32Array.from(values), bits, clip, codes);
  return { codes: [...codes], scale: fromFloat16Bits(scale), min: fromFloat16Bits(min), bits: { scale, min } };
}

describe('quantized key and value rows', () => {
  it('span the range of the row, low nibble first', () => {
    const row = quantize(Array.from({ length: 16 }, (_, i) => i / 2 - 3));
    assert.deepEqual([row.scale, row.min], [0.5, -3]);
    assert.deepEqual(row.codes, [0x10, 0x32, 0x54, 0x76, 0x98, 0xba, 0xdc, 0xfe]);
  });

  it('lose no code when all values have one sign', () => {
    const row = quantize([100, 115, 101, 114]);
    assert.deepEqual([row.scale, row.min, ...row.codes], [1, 100, 0xf0, 0xe1]);
  });

  it('round half to even', () => {
    assert.deepEqual(quantize([0, 15, 0.5, 1.5, 2.5, 13.5]).codes, [0xf0, 0x20, 0xe2]);
  });

  it('take codes of the rounded parameters, so that no value is further off than a step', () => {
    const random = new Random('kv rows');
    for (const bits of [4, 8] as const) {
      const values = Float32Array.from({ length: 64 }, () => 40 + random.normal());
      const codes = new Uint8Array(kvRowBytes(64, bits));
      const parameters = quantizeKvRow(values, bits, 1, codes);
      const back = dequantizeKvRow(codes, bits, parameters);
      // Half a step, and the ends may lie beyond the codes by the rounding of scale and min to 11 bits.
      const allowed = fromFloat16Bits(parameters.scale) / 2 + 48 * 2 ** -11;
      values.forEach((value, i) => assert.ok(Math.abs(value - back[i]!) <= allowed));
    }
  });

  it('clip around the middle', () => {
    const row = quantize([0, 15, 7.5, 3], 4, 0.8);
    assert.deepEqual([row.bits.scale, row.bits.min], [toFloat16Bits(0.8), toFloat16Bits(1.5)]);
    assert.deepEqual(row.codes, [0xf0, 0x28]);
  });

  it('stand for their value when all are equal, -0 included', () => {
    assert.deepEqual(quantize([2.5, 2.5]), { codes: [0], scale: 0, min: 2.5, bits: { scale: 0, min: 0x4100 } });
    assert.deepEqual(quantize([-0, -0]).bits, { scale: 0, min: 0 });
  });

  it('become NaN when a value is not finite or float16 cannot hold the row', () => {
    for (const value of [NaN, Infinity, -Infinity, 70000 * 15, -66000]) {
      const row = quantize([1, value]);
      assert.deepEqual([row.bits.scale, row.bits.min, row.codes], [0x7e00, 0x7e00, [0]], String(value));
    }
  });
});
