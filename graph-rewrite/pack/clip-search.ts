/**
 * Clip ratios found by search: for each group the scale whose codes come nearest to the weights, instead of one ratio for all.
 */
import { fromFloat16Bits } from '../../ops/common/float16.js';
import { codeFormats, type WeightFormat } from '../../ops/formats/formats.js';
import { isMinifloat, minifloatValues, toMinifloat } from '../../ops/formats/minifloat.js';
import { segmentScale, type Refusal, type SegmentScale } from './quantize.js';

/** Ratios that are tried, 1 first: of equal errors the largest scale wins. */
export const clipRatios: readonly number[] = Array.from({ length: 13 }, (_, i) => 1 - i / 25);

/** A group of channels of a few rows. */
export interface Segment {
  readonly rows: number;
  readonly stride: number;
  readonly start: number;
  readonly length: number;
}

/**
 * The scale of a segment with the smallest squared error.
 * @param energy weight of each channel's error, from the segment's first channel on: the mean square of its activations, the diagonal of the
 *   Hessian. Absent: all count alike
 * @param into receives the result
 */
export function searchScale(
  values: Float32Array,
  segment: Segment,
  format: WeightFormat,
  energy: Float32Array | undefined,
  into: SegmentScale,
): Refusal | undefined {
  const tried: SegmentScale = { bits: 0, inverse: 0 };
  let least = Infinity;
  for (const ratio of clipRatios) {
    const refusal = segmentScale(values, segment, format, ratio, tried);
    if (refusal) return refusal;
    const error = squaredError(values, segment, format, energy, tried);
    if (error >= least) continue;
    least = error;
    into.bits = tried.bits;
    into.inverse = tried.inverse;
  }
  return undefined;
}

/** Adding and subtracting it rounds a double below 2^51 to an integer, half to even. */
const magic = 1.5 * 2 ** 52;

/** What rounding a segment with a scale loses: the sum of squares, weighted by `energy`, [length], if there is one. */
export function squaredError(
  values: Float32Array,
  { rows, stride, start, length }: Segment,
  format: WeightFormat,
  energy: Float32Array | undefined,
  { bits, inverse }: Readonly<SegmentScale>,
): number {
  if (inverse === 0) return 0;
  const scale = fromFloat16Bits(bits);
  const nearest = nearestOf(format);
  let error = 0;
  for (let row = 0; row < rows; row++) {
    const first = row * stride + start;
    for (let i = 0; i < length; i++) {
      const value = values[first + i]!;
      const off = value - nearest(Math.fround(value * inverse)) * scale;
      error += energy ? energy[i]! * off * off : off * off;
    }
  }
  return error;
}

/** The value on the format's grid that a scaled weight is rounded to. */
function nearestOf(format: WeightFormat): (scaled: number) => number {
  if (isMinifloat(format)) {
    const grid = minifloatValues(format);
    return (scaled) => grid[toMinifloat(scaled, format)]!;
  }
  const { min, max } = codeFormats[format];
  return (scaled) => {
    const rounded = scaled + magic - magic;
    return rounded < min ? min : rounded > max ? max : rounded;
  };
}
