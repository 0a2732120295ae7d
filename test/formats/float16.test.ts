import assert from 'node:assert/strict';
import { fromFloat16Bits, roundToFloat16, toFloat16Bits } from '../../ops/common/float16.js';

describe('float16', () => {
  it('gives every pattern back after widening', () => {
    for (let bits = 0; bits < 0x10000; bits++) {
      const value = fromFloat16Bits(bits);
      if (Number.isNaN(value)) assert.equal(toFloat16Bits(value) & 0x7e00, 0x7e00);
      else assert.equal(toFloat16Bits(value), bits);
    }
  });

  it('rounds half to even between neighbours, subnormal and at the ends', () => {
    for (let bits = 0; bits < 0x7bff; bits++) {
      const middle = (fromFloat16Bits(bits) + fromFloat16Bits(bits + 1)) / 2;
      assert.equal(toFloat16Bits(middle), bits & 1 ? bits + 1 : bits);
      assert.equal(toFloat16Bits(middle * (1 - 2 ** -20)), bits);
      assert.equal(toFloat16Bits(middle * (1 + 2 ** -20)), bits + 1);
    }
    assert.equal(roundToFloat16(65519.9), 65504);
    assert.equal(roundToFloat16(65520), Infinity);
    assert.equal(roundToFloat16(-1e30), -Infinity);
    assert.ok(Object.is(roundToFloat16(-(2 ** -25)), -0));
    assert.equal(roundToFloat16(-(2 ** -25) * 1.001), -(2 ** -24));
  });
});
