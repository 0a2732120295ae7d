/**
 * `s4_e4m3` storage: a code as the sign bit and its magnitude. Such a byte is also the e4m3 pattern of code · 2⁻⁹, which
 * is what FP8 tensor cores read.
 */

/** Two's complement codes, -8 … 7, in place to sign and magnitude; zero is 0x00. */
export function toSignMagnitude(codes: Int8Array): void {
  codes.forEach((code, i) => {
    codes[i] = code < 0 ? 0x80 | -code : code;
  });
}

/** The inverse of {@link toSignMagnitude}, into a new array. */
export function fromSignMagnitude(bytes: Int8Array): Int8Array {
  return bytes.map((byte) => (byte < 0 ? -(byte & 0x7f) : byte));
}
