/**
 * `s4` weight storage: rows of two's complement nibbles, even k in the low nibble of byte k/2, odd k in the high one.
 * A row of odd length leaves its last high nibble 0.
 */
import { internalError } from '../common/errors.js';

/** Packs `codes` [rows, cols], each in -8 … 7, to [rows, ceil(cols / 2)] bytes. */
export function packS4(codes: Int8Array, rows: number, cols: number): Uint8Array {
  if (codes.length !== rows * cols) {
    throw internalError('packS4', `${codes.length} codes given, expected ${rows} x ${cols}`);
  }
  const rowBytes = Math.ceil(cols / 2);
  const packed = new Uint8Array(rows * rowBytes);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) {
      const nibble = codes[row * cols + k]! & 0xf;
      packed[row * rowBytes + (k >> 1)]! |= k & 1 ? nibble << 4 : nibble;
    }
  }
  return packed;
}

/** The codes [rows, cols] of `packed` [rows, ceil(cols / 2)]; the inverse of {@link packS4}. */
export function unpackS4(packed: Uint8Array, rows: number, cols: number): Int8Array {
  const rowBytes = Math.ceil(cols / 2);
  if (packed.length !== rows * rowBytes) {
    throw internalError('unpackS4', `${packed.length} bytes given, expected ${rows} x ${rowBytes}`);
  }
  const codes = new Int8Array(rows * cols);
  for (let row = 0; row < rows; row++) {
    for (let k = 0; k < cols; k++) {
      const byte = packed[row * rowBytes + (k >> 1)]!;
      codes[row * cols + k] = ((k & 1 ? byte : byte << 4) << 24) >> 28;
    }
  }
  return codes;
}
