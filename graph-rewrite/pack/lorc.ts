/**
 * The factors of a low-rank term (LoRC, ZeroQuant-V2, arXiv 2303.08302) as QuantGemm stores them: s8 codes with a scale a row, one a value
 * (8 bits) or two (16 bits); see `ops/formats/README.md`.
 */
import { fromFloat16Bits } from '../../ops/common/float16.js';
import { refuse } from './linear.js';
import { segmentScale } from './quantize.js';
import type { LorcSettings } from '../recipes/recipe.js';

/** Codes a value takes. */
export const planesOf = ({ bits }: LorcSettings): 1 | 2 => (bits === 16 ? 2 : 1);

/** Bytes of the factors of a product with K input and N output channels, scales included. */
export function lorcBytes(K: number, N: number, lorc: LorcSettings | undefined): { down: number; up: number } {
  if (!lorc) return { down: 0, up: 0 };
  const codes = planesOf(lorc) * lorc.rank;
  return { down: codes * K + 2 * lorc.rank, up: codes * N + 2 * N };
}

/** A factor: rows of values, each with a float16 scale. */
export interface PackedFactor {
  readonly codes: Int8Array;
  readonly scales: Uint16Array;
}

/** Where code `plane` of value `at` of a row lies. */
type Place = (row: number, at: number, plane: number) => number;

/** `down` [R, K]: first codes of all rows, then second ones. */
const downPlace =
  (R: number, K: number): Place =>
  (row, at, plane) =>
    (plane * R + row) * K + at;

/** `up` [N, R]: first codes of a row, then its second ones. */
const upPlace =
  (R: number, planes: number): Place =>
  (row, at, plane) =>
    (row * planes + plane) * R + at;

/** Packs `down` [R, K]. @throws input error that names the layer if a scale is beyond float16 */
export function packDown(name: string, down: Float32Array, R: number, lorc: LorcSettings): PackedFactor {
  const K = down.length / R;
  return packFactor(name, down, R, planesOf(lorc), downPlace(R, K));
}

/** Packs `up` [N, R]. */
export function packUp(name: string, up: Float32Array, R: number, lorc: LorcSettings): PackedFactor {
  const planes = planesOf(lorc);
  return packFactor(name, up, up.length / R, planes, upPlace(R, planes));
}

function packFactor(name: string, values: Float32Array, rows: number, planes: 1 | 2, place: Place): PackedFactor {
  const length = values.length / rows;
  const codes = new Int8Array(values.length * planes);
  const scales = new Uint16Array(rows);
  const scale = { bits: 0, inverse: 0 };
  for (let row = 0; row < rows; row++) {
    refuse(name, row, segmentScale(values, { rows: 1, stride: length, start: row * length, length }, 's8', 1, scale));
    scales[row] = scale.bits;
    for (let at = 0; at < length; at++) {
      const steps = values[row * length + at]! / fromFloat16Bits(scale.bits);
      const first = toS8(steps);
      codes[place(row, at, 0)] = first;
      if (planes === 2) codes[place(row, at, 1)] = toS8((steps - first) * 256);
    }
  }
  return { codes, scales };
}

/** To the nearest code. */
const toS8 = (steps: number): number => Math.min(127, Math.max(-128, Math.round(steps)));

/** Takes `up · down`, as packed, from `rows` [N, K]. */
export function subtractLorc(rows: Float32Array, down: PackedFactor, up: PackedFactor): void {
  const R = down.scales.length;
  const N = up.scales.length;
  const K = rows.length / N;
  const planes = up.codes.length / (N * R);
  const floats = ({ codes, scales }: PackedFactor, length: number, place: Place): Float32Array =>
    Float32Array.from({ length: scales.length * length }, (_, i) => {
      const [row, at] = [Math.floor(i / length), i % length];
      const second = planes === 2 ? codes[place(row, at, 1)]! / 256 : 0;
      return (codes[place(row, at, 0)]! + second) * fromFloat16Bits(scales[row]!);
    });
  const left = floats(up, R, upPlace(R, planes));
  const right = floats(down, K, downPlace(R, K));
  for (let n = 0; n < N; n++) {
    const row = rows.subarray(n * K, (n + 1) * K);
    for (let r = 0; r < R; r++) {
      const factor = left[n * R + r]!;
      for (let k = 0; k < K; k++) row[k]! -= factor * right[r * K + k]!;
    }
  }
}
