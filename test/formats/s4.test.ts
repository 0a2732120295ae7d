import assert from 'node:assert/strict';
import { packedRowBytes } from '../../ops/formats/formats.js';
import { packS4, unpackS4 } from '../../ops/formats/s4.js';

describe('s4 storage', () => {
  it('puts even k in the low nibble: 2 x 32 codes, byte for byte', () => {
    const codes = Int8Array.from({ length: 64 }, (_, i) => (i < 32 ? (i % 16) - 8 : 7 - (i % 16)));
    const up = [0x98, 0xba, 0xdc, 0xfe, 0x10, 0x32, 0x54, 0x76];
    const down = [0x67, 0x45, 0x23, 0x01, 0xef, 0xcd, 0xab, 0x89];
    assert.deepEqual([...packS4(codes, 2, 32)], [...up, ...up, ...down, ...down]);
    assert.deepEqual([...packS4(Int8Array.of(-3, 5), 1, 2)], [0x5d]);
  });

  it('gives all pairs of codes back', () => {
    const codes = Int8Array.from({ length: 512 }, (_, i) => ((i & 1 ? i >> 5 : i >> 1) & 15) - 8);
    assert.deepEqual(unpackS4(packS4(codes, 16, 32), 16, 32), codes);
  });

  it('leaves the last nibble of an odd row 0', () => {
    const codes = Int8Array.of(-1, -2, -3, -4, -5, -6);
    const packed = packS4(codes, 2, 3);
    assert.deepEqual([...packed], [0xef, 0x0d, 0xbc, 0x0a]);
    assert.deepEqual(unpackS4(packed, 2, 3), codes);
    assert.equal(packedRowBytes('s4', 3), 2);
    assert.equal(packedRowBytes('s8', 3), 3);
  });

  it('refuses a wrong length', () => {
    assert.throws(
      () => packS4(new Int8Array(5), 1, 4),
      /^LowbitError: internal: packS4: 5 codes given, expected 1 x 4/,
    );
    assert.throws(() => unpackS4(new Uint8Array(5), 1, 4), /5 bytes given, expected 1 x 2/);
  });
});
