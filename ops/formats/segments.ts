/** How a row of K channels is cut into segments that each have one scale. */
import { usageError } from '../common/errors.js';
import { activationFormats, type ActivationFormat } from './formats.js';
import { clipRange, quantizeSegment } from './quantize-segment.js';

/** The attributes that say how a row is quantized; the same on every operator that quantizes. */
export interface RowFormat {
  /** Format of the body's codes; outliers are always s8. */
  readonly format: ActivationFormat;
  /** Channels of the body that share a scale; 0: the whole body. */
  readonly groupSize: number;
  /** The last channels of a row, quantized as one s8 segment of their own. */
  readonly outlierChannels: number;
  /** Clips the body's largest magnitude, see {@link quantizeSegment}. */
  readonly clip: number;
}

export interface Segment {
  readonly start: number;
  readonly length: number;
  readonly format: ActivationFormat;
  readonly clip: number;
}

/** Checks a row format against K channels; `at` names the node in the error. */
export function checkRowFormat(at: string, row: RowFormat, K: number): void {
  const body = K - row.outlierChannels;
  if (!activationFormats.includes(row.format)) {
    throw usageError(at, `format is '${row.format}', expected one of ${activationFormats.join(', ')}`);
  }
  if (!Number.isInteger(row.outlierChannels) || row.outlierChannels < 0 || body < 1) {
    throw usageError(at, `outlier_channels is ${row.outlierChannels}, expected 0 … K - 1 (${K - 1})`);
  }
  if (!Number.isInteger(row.groupSize) || row.groupSize < 0 || row.groupSize % 16 !== 0) {
    throw usageError(at, `group_size is ${row.groupSize}, expected 0 or a multiple of 16`);
  }
  if (row.groupSize > 0 && body % row.groupSize !== 0) {
    throw usageError(at, `group_size is ${row.groupSize}, expected 0 or a divisor of K - outlier_channels (${body})`);
  }
  if (!(row.clip >= clipRange.min && row.clip <= clipRange.max)) {
    throw usageError(at, `clip is ${row.clip}, expected ${clipRange.min} … ${clipRange.max}`);
  }
}

/** The segments of a row of K channels, in the order of their scales. */
export function segmentsOf(row: RowFormat, K: number): Segment[] {
  const body = K - row.outlierChannels;
  const size = row.groupSize || body;
  const segments: Segment[] = [];
  for (let start = 0; start < body; start += size) {
    segments.push({ start, length: size, format: row.format, clip: row.clip });
  }
  if (row.outlierChannels > 0) segments.push({ start: body, length: row.outlierChannels, format: 's8', clip: 1 });
  return segments;
}

/** Codes [M, K] and scales [M, S] of M rows. */
export interface QuantizedRows {
  readonly q: Int8Array;
  readonly scale: Float32Array;
}

/**
 * Gathers and quantizes M rows of K floats: the common end of all row operators.
 * @param reorderIndex channel i of a quantized row is channel reorderIndex[i] of the float row
 */
export function quantizeRows(rows: Float32Array, K: number, row: RowFormat, reorderIndex?: Int32Array): QuantizedRows {
  checkRowFormat('quantizeRows', row, K);
  const M = rows.length / K;
  const segments = segmentsOf(row, K);
  const q = new Int8Array(M * K);
  const scale = new Float32Array(M * segments.length);
  for (let m = 0; m < M; m++) {
    const natural = rows.subarray(m * K, (m + 1) * K);
    const gathered = reorderIndex ? Float32Array.from(reorderIndex, (k) => natural[k]!) : natural;
    segments.forEach(({ start, length, format, clip }, s) => {
      const codes = q.subarray(m * K + start, m * K + start + length);
      scale[m * segments.length + s] = quantizeSegment(gathered.subarray(start, start + length), format, clip, codes);
    });
  }
  return { q, scale };
}
