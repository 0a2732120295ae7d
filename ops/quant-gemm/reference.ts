/** The oracle of every `QuantGemm` kernel: exact integer sums, then the float sum in double with its error bound. */
import { fromFloat16Bits } from '../common/float16.js';
import { weightBits, type ActivationFormat, type WeightFormat } from '../formats/formats.js';
import { isMinifloat, minifloatValues, unpackNibbles } from '../formats/minifloat.js';
import { unpackS4 } from '../formats/s4.js';
import { fromSignMagnitude } from '../formats/sign-magnitude.js';

/** Attributes, as in the contract. */
export interface QuantGemmAttributes {
  readonly K: number;
  readonly N: number;
  readonly weightFormat: WeightFormat;
  /** Channels of a row of weights that share a scale; 0: the whole body. */
  readonly groupSize: number;
  /** 'none': activations are floats. */
  readonly aFormat: ActivationFormat | 'none';
  readonly aGroupSize: number;
  readonly outlierChannels: number;
}

export interface QuantGemmInputs {
  /** Codes [M, K], or floats [M, K] (widened) when `aFormat` is 'none'. */
  readonly a: Int8Array | Float32Array;
  /** [M, S], absent for float activations. */
  readonly aScale?: Float32Array | undefined;
  /** 4 bits: packed [N, ceil((K-O)/2)]; 8 bits: [N, K-O]. */
  readonly b: Uint8Array | Int8Array;
  /** float16 bits [N, weight groups]. */
  readonly bScale: Uint16Array;
  /** [N, O]. */
  readonly bOutlier?: Int8Array | undefined;
  /** float16 bits [N]. */
  readonly bOutlierScale?: Uint16Array | undefined;
  /** [N], or empty for none; widened. */
  readonly bias: Float32Array;
  /** [M, N]; widened. */
  readonly residual?: Float32Array | undefined;
  readonly lorc?: LorcInputs | undefined;
}

/** The factors of a low-rank term of rank R, in P = 1 or 2 codes a value. */
export interface LorcInputs {
  /** [P·R, K]. */
  readonly down: Int8Array;
  /** float16 bits [R]. */
  readonly downScale: Uint16Array;
  /** [N, P·R]. */
  readonly up: Int8Array;
  /** float16 bits [N]. */
  readonly upScale: Uint16Array;
}

/** A stretch of channels with one scale on each side. */
interface GemmSegment {
  readonly start: number;
  readonly length: number;
  /** Index of the activation's scale in its row of scales. */
  readonly aScaleIndex: number;
  /** Index of the weight's scale, or 'outlier'. */
  readonly bScaleIndex: number | 'outlier';
}

/** The segments of the product: the finer of both sides' groups, then the outliers. */
export function gemmSegments(attributes: QuantGemmAttributes): GemmSegment[] {
  const body = attributes.K - attributes.outlierChannels;
  const size = attributes.groupSize || attributes.aGroupSize || body;
  const segments: GemmSegment[] = [];
  for (let start = 0; start < body; start += size) {
    segments.push({
      start,
      length: size,
      aScaleIndex: attributes.aGroupSize ? Math.floor(start / attributes.aGroupSize) : 0,
      bScaleIndex: attributes.groupSize ? Math.floor(start / attributes.groupSize) : 0,
    });
  }
  if (attributes.outlierChannels > 0) {
    const aScaleIndex = attributes.aGroupSize ? body / attributes.aGroupSize : 1;
    segments.push({ start: body, length: attributes.outlierChannels, aScaleIndex, bScaleIndex: 'outlier' });
  }
  return segments;
}

/** What weight codes stand for, [N, K], outliers last; without the scales. */
export function weightValues(
  inputs: QuantGemmInputs,
  { K, N, outlierChannels, weightFormat }: QuantGemmAttributes,
): Float32Array {
  const body = K - outlierChannels;
  const packed = inputs.b as Uint8Array;
  const bodyCodes =
    weightFormat === 's4'
      ? unpackS4(packed, N, body)
      : weightBits(weightFormat) === 4
        ? unpackNibbles(packed, N, body)
        : inputs.b;
  const values = new Float32Array(N * K);
  for (let n = 0; n < N; n++) {
    values.set(valuesOf(bodyCodes.subarray(n * body, (n + 1) * body), weightFormat), n * K);
    if (outlierChannels > 0) {
      values.set(inputs.bOutlier!.subarray(n * outlierChannels, (n + 1) * outlierChannels), n * K + body);
    }
  }
  return values;
}

/** What the activations of a row stand for, without the scales. */
function activationValues(
  row: Int8Array | Float32Array,
  { K, outlierChannels, aFormat }: QuantGemmAttributes,
): ArrayLike<number> {
  if (aFormat === 'none' || (!isMinifloat(aFormat) && aFormat !== 's4_e4m3')) return row;
  const values = Float32Array.from(row);
  const body = row.subarray(0, K - outlierChannels);
  values.set(valuesOf(body, aFormat));
  return values;
}

function valuesOf(codes: Int8Array | Uint8Array | Float32Array, format: ActivationFormat | WeightFormat): Float32Array {
  if (format === 's4_e4m3') return Float32Array.from(fromSignMagnitude(codes as Int8Array));
  if (!isMinifloat(format)) return Float32Array.from(codes);
  const values = minifloatValues(format);
  return Float32Array.from(codes, (code) => values[code & (values.length - 1)]!);
}

/** Whether inner sums are exact integers. */
const integers = ({ aFormat, weightFormat }: QuantGemmAttributes): boolean =>
  aFormat !== 'none' && !isMinifloat(aFormat) && !isMinifloat(weightFormat);

/** One output element's exact segment sums Σ a·b: integers for codes, doubles for float activations. */
export function segmentSums(a: ArrayLike<number>, b: ArrayLike<number>, segments: readonly GemmSegment[]): number[] {
  return segments.map(({ start, length }) => {
    let sum = 0;
    for (let k = start; k < start + length; k++) sum += a[k]! * b[k]!;
    return sum;
  });
}

/** The factors' values, down [R, K] and up [N, R]; with `absolute`, the sums of their codes' magnitudes instead. */
export function lorcValues(
  { down, downScale, up, upScale }: LorcInputs,
  K: number,
  absolute = false,
): { R: number; down: Float64Array; up: Float64Array } {
  const R = downScale.length;
  const P = down.length / (R * K);
  const value = (first: number, second: number, scale: number): number =>
    (absolute ? Math.abs(first) + Math.abs(second) / 256 : first + second / 256) * fromFloat16Bits(scale);
  const second = (codes: Int8Array, index: number): number => (P === 2 ? codes[index]! : 0);
  return {
    R,
    down: Float64Array.from({ length: R * K }, (_, i) =>
      value(down[i]!, second(down, R * K + i), downScale[Math.floor(i / K)]!),
    ),
    up: Float64Array.from({ length: upScale.length * R }, (_, i) => {
      const n = Math.floor(i / R);
      const at = n * P * R + (i % R);
      return value(up[at]!, second(up, at + R), upScale[n]!);
    }),
  };
}

/** The low-rank term of one row of dequantized activations [K], for all outputs: `(row · downᵀ) · upᵀ`. */
function lorcTerm(row: ArrayLike<number>, { R, down, up }: ReturnType<typeof lorcValues>): Float64Array {
  const K = row.length;
  const inner = Float64Array.from({ length: R }, (_, r) => {
    let sum = 0;
    for (let k = 0; k < K; k++) sum += row[k]! * down[r * K + k]!;
    return sum;
  });
  return Float64Array.from({ length: up.length / R }, (_, n) => {
    let sum = 0;
    for (let r = 0; r < R; r++) sum += inner[r]! * up[n * R + r]!;
    return sum;
  });
}

/** `y` in double precision and, element by element, how far a kernel's binary32 result may be from it. */
export interface QuantGemmResult {
  readonly y: Float64Array;
  readonly bound: Float64Array;
}

/** The product of the README, with the bound it states for the graph type. */
export function quantGemm(
  inputs: QuantGemmInputs,
  attributes: QuantGemmAttributes,
  graphType: 'float32' | 'float16',
): QuantGemmResult {
  const { K, N, groupSize, outlierChannels } = attributes;
  const M = inputs.a.length / K;
  const segments = gemmSegments(attributes);
  const scalesPerRow = inputs.aScale && M > 0 ? inputs.aScale.length / M : 0;
  const weightGroups = groupSize ? (K - outlierChannels) / groupSize : 1;
  const weights = weightValues(inputs, attributes);
  const exact = integers(attributes);
  const y = new Float64Array(M * N);
  const bound = new Float64Array(M * N);
  const lorc = inputs.lorc && {
    values: lorcValues(inputs.lorc, K),
    magnitudes: lorcValues(inputs.lorc, K, true),
    roundings: K + segments.length + inputs.lorc.up.length / N + 10,
  };
  for (let m = 0; m < M; m++) {
    const a = activationValues(inputs.a.subarray(m * K, (m + 1) * K), attributes);
    const row = new Float64Array(K);
    for (const { start, length, aScaleIndex } of segments) {
      const scale = inputs.aScale ? inputs.aScale[m * scalesPerRow + aScaleIndex]! : 1;
      for (let k = start; k < start + length; k++) row[k] = a[k]! * scale;
    }
    const term = lorc && lorcTerm(row, lorc.values);
    const termMagnitude = lorc && lorcTerm(row.map(Math.abs), lorc.magnitudes);
    for (let n = 0; n < N; n++) {
      const b = weights.subarray(n * K, (n + 1) * K);
      const scales = segments.map(({ aScaleIndex, bScaleIndex }) => {
        const aScale = inputs.aScale ? inputs.aScale[m * scalesPerRow + aScaleIndex]! : 1;
        const bBits =
          bScaleIndex === 'outlier' ? inputs.bOutlierScale![n]! : inputs.bScale[n * weightGroups + bScaleIndex]!;
        return aScale * fromFloat16Bits(bBits);
      });
      const sums = segmentSums(a, b, segments);
      const constant = (inputs.bias.length > 0 ? inputs.bias[n]! : 0) + (inputs.residual?.[m * N + n] ?? 0);
      y[m * N + n] = sums.reduce((total, sum, s) => total + sum * scales[s]!, constant);
      // Magnitudes a kernel rounds: the segment terms, or every product when the inner sums are floats.
      const inner = exact ? sums : segmentSums(Float32Array.from(a, Math.abs), b.map(Math.abs), segments);
      const magnitude =
        Math.abs(inputs.bias[n] ?? 0) +
        Math.abs(inputs.residual?.[m * N + n] ?? 0) +
        inner.reduce((total, sum, s) => total + Math.abs(sum * scales[s]!), 0);
      const roundings = (exact ? 0 : K) + segments.length + 4;
      bound[m * N + n] = roundings * 2 ** -24 * magnitude + 2 ** -120;
      if (!lorc) continue;
      y[m * N + n]! += term![n]!;
      bound[m * N + n]! += lorc.roundings * 2 ** -24 * (magnitude + termMagnitude![n]!);
      // The term is added to the residual first, and the sum is of the graph type.
      if (graphType === 'float16') {
        bound[m * N + n]! += Math.abs(term![n]! + (inputs.residual?.[m * N + n] ?? 0)) * 2 ** -11 + 2 ** -25;
      }
    }
  }
  if (graphType === 'float16') {
    y.forEach((value, i) => {
      bound[i]! += (Math.abs(value) + bound[i]!) * 2 ** -11 + 2 ** -25;
    });
  }
  return { y, bound };
}
