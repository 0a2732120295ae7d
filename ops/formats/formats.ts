/** The storage formats of codes. `ops/formats/README.md` defines the arithmetic. */

import { isMinifloat, minifloats } from './minifloat.js';

/** A code format: the range its codes lie in and the code that the largest magnitude maps to. */
export interface CodeFormat {
  readonly min: number;
  readonly max: number;
  /** amax · clip maps to this code. */
  readonly qmax: number;
}

/** The integer formats. `s4_e4m3` has the codes of `s4`, stored as sign and magnitude. */
export const codeFormats = {
  s4: { min: -8, max: 7, qmax: 7 },
  s8: { min: -128, max: 127, qmax: 127 },
  s4_e4m3: { min: -8, max: 7, qmax: 7 },
} as const satisfies Record<string, CodeFormat>;

/** Name of an integer code format, as in the operators' `format` attributes. */
export type FormatName = keyof typeof codeFormats;

/** Formats that activations may have. */
export const activationFormats = ['s4', 's8', 'e4m3', 'e5m2', 's4_e4m3'] as const;
export type ActivationFormat = (typeof activationFormats)[number];

/** Formats that weights may have. */
export const weightFormats = ['s4', 's8', 'e2m1', 'e3m0', 'bnb_fp4', 'e4m3'] as const;
export type WeightFormat = (typeof weightFormats)[number];

/** The value that amax · clip maps to. */
export function largestOf(format: ActivationFormat | WeightFormat): number {
  return isMinifloat(format) ? minifloats[format].max : codeFormats[format].qmax;
}

/** Bits of a stored weight code. */
export function weightBits(format: WeightFormat): 4 | 8 {
  if (isMinifloat(format)) return minifloats[format].bits;
  return format === 's4' ? 4 : 8;
}

/** The element type that packed weights of a format are stored in: bytes of two codes, or of one. */
export function weightStorage(format: WeightFormat): 'uint8' | 'int8' {
  return weightBits(format) === 4 ? 'uint8' : 'int8';
}

/** Bytes a row of `count` weight codes takes. */
export function packedRowBytes(format: WeightFormat, count: number): number {
  return weightBits(format) === 4 ? Math.ceil(count / 2) : count;
}
