/** Minifloat codes: sign, exponent, mantissa. `ops/formats/README.md` has the table of formats and the rounding rule. */
import { internalError } from '../common/errors.js';

/** A sign-magnitude float of 4 or 8 bits: its fields, or a list of its magnitudes by code. */
export type Minifloat = { readonly bits: 4 | 8 } & (Fields | Magnitudes);

interface Fields {
  readonly mantissaBits: number;
  readonly bias: number;
  /** Largest finite magnitude. */
  readonly max: number;
}

interface Magnitudes {
  readonly magnitudes: readonly number[];
  /** The last of them. */
  readonly max: number;
}

export const minifloats = {
  e2m1: { bits: 4, mantissaBits: 1, bias: 1, max: 6 },
  e3m0: { bits: 4, mantissaBits: 0, bias: 3, max: 16 },
  bnb_fp4: { bits: 4, magnitudes: [0, 0.0625, 2, 3, 4, 6, 8, 12], max: 12 },
  e4m3: { bits: 8, mantissaBits: 3, bias: 7, max: 448 },
  e5m2: { bits: 8, mantissaBits: 2, bias: 15, max: 57344 },
} as const satisfies Record<string, Minifloat>;

export type MinifloatName = keyof typeof minifloats;

export const isMinifloat = (format: string): format is MinifloatName => format in minifloats;

/** The value of every code of a format, by its bit pattern. */
export function minifloatValues(format: MinifloatName): Float32Array {
  return grids[format].values;
}

function valueOf(format: Minifloat, code: number): number {
  const half = 1 << (format.bits - 1);
  const magnitude = code & (half - 1);
  const sign = code & half ? -1 : 1;
  if ('magnitudes' in format) return sign * format.magnitudes[magnitude]!;
  const exponent = magnitude >> format.mantissaBits;
  const fraction = (magnitude & ((1 << format.mantissaBits) - 1)) / (1 << format.mantissaBits);
  const size = exponent === 0 ? fraction * 2 ** (1 - format.bias) : (1 + fraction) * 2 ** (exponent - format.bias);
  // Above the largest finite value lie e5m2's infinity, in its usual place, and NaNs.
  const value = size <= format.max ? size : format.bias === 15 && fraction === 0 ? Infinity : NaN;
  return sign * value;
}

interface Grid {
  readonly values: Float32Array;
  /** Entry i lies halfway between the magnitudes of codes i and i + 1. */
  readonly midpoints: Float64Array;
  readonly signBit: number;
}

function gridOf(format: Minifloat): Grid {
  const values = Float32Array.from({ length: 1 << format.bits }, (_, code) => valueOf(format, code));
  const largest = values.indexOf(format.max);
  const midpoints = Float64Array.from({ length: largest }, (_, code) => (values[code]! + values[code + 1]!) / 2);
  return { values, midpoints, signBit: 1 << (format.bits - 1) };
}

const grids: Readonly<Record<MinifloatName, Grid>> = {
  e2m1: gridOf(minifloats.e2m1),
  e3m0: gridOf(minifloats.e3m0),
  bnb_fp4: gridOf(minifloats.bnb_fp4),
  e4m3: gridOf(minifloats.e4m3),
  e5m2: gridOf(minifloats.e5m2),
};

/**
 * The code of `x`: the nearest value, of two equally near ones that with the even code; magnitudes beyond the largest finite value
 * give that value, with the sign kept, also that of zero.
 * @throws internal error for NaN
 */
export function toMinifloat(x: number, format: MinifloatName): number {
  if (Number.isNaN(x)) throw internalError('toMinifloat', `${format} was asked for the code of NaN`);
  const { midpoints, signBit } = grids[format];
  const magnitude = Math.abs(x);
  let code = 0;
  let end = midpoints.length;
  while (code < end) {
    const middle = (code + end) >> 1;
    if (midpoints[middle]! < magnitude) code = middle + 1;
    else end = middle;
  }
  if (midpoints[code] === magnitude && code % 2 === 1) code++;
  return x < 0 || Object.is(x, -0) ? code | signBit : code;
}

/** Packs 4-bit codes [rows, cols] to [rows, ceil(cols / 2)] bytes, even columns in the low nibbles; see `s4.ts`. */
export { packS4 as packNibbles } from './s4.js';

/** The 4-bit codes 0 … 15 [rows, cols] of `packed`; the inverse of packing. */
export function unpackNibbles(packed: Uint8Array, rows: number, cols: number): Int8Array {
  const rowBytes = Math.ceil(cols / 2);
  if (packed.length !== rows * rowBytes) {
    throw internalError('unpackNibbles', `${packed.length} bytes given, expected ${rows} x ${rowBytes}`);
  }
  return Int8Array.from({ length: rows * cols }, (_, i) => {
    const k = i % cols;
    return (packed[((i - k) / cols) * rowBytes + (k >> 1)]! >> (k % 2 ? 4 : 0)) & 15;
  });
}
