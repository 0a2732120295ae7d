/** The storage formats of codes. `ops/formats/README.md` defines the arithmetic. */

/** A code format: the range its codes lie in and the code that the largest magnitude maps to. */
export interface CodeFormat {
  readonly min: number;
  readonly max: number;
  /** amax · clip maps to this code. */
  readonly qmax: number;
}

export const codeFormats = {
  s4: { min: -8, max: 7, qmax: 7 },
  s8: { min: -128, max: 127, qmax: 127 },
} as const satisfies Record<string, CodeFormat>;

/** Name of an integer code format, as in the operators' `format` attributes. */
export type FormatName = keyof typeof codeFormats;

/** Bytes a row of `count` weight codes takes: two s4 codes a byte, one s8 code a byte. */
export function packedRowBytes(format: FormatName, count: number): number {
  return format === 's4' ? Math.ceil(count / 2) : count;
}
