/**
 * Looks for the alpha of SmoothQuant with the least error of a layer's output, predicted from sample rows of the calibration. Errors of
 * different channels are taken as independent, which rounding errors nearly are:
 *
 *     E‖Δy‖² ≈ Σ_k E[Δx_k²] · Σ_n w_nk²  +  Σ_k E[x_k²] · Σ_n Δw_nk²
 *
 * with Δx and Δw what the formats of the recipe make of smoothed rows and weights.
 */
import type { ActivationFormat, WeightFormat } from '../../ops/formats/formats.js';
import { isMinifloat, minifloatValues } from '../../ops/formats/minifloat.js';
import { amaxBits, quantizeSegment, quantizeWithScale, weightScale } from '../../ops/formats/quantize-segment.js';
import { segmentsOf, type RowFormat, type Segment } from '../../ops/formats/segments.js';
import type { ChannelStats } from '../calibrate/stats.js';
import { rowReader, sizeOf, type WeightSource } from '../pack/rows.js';
import type { OutlierSettings, WeightSettings } from '../recipes/recipe.js';
import { channelOrder } from './order.js';
import type { Batch } from './resolve-sites.js';
import { smoothedStats } from './smooth.js';
import type { Steps } from './steps.js';

/** How rows will be cut up, sizes fitted to the layer. */
export interface RowShape {
  readonly groupSize: number;
  readonly outlierChannels: number;
  /** How channels are sorted; absent for natural order. */
  readonly sorted?: OutlierSettings | undefined;
}

export interface FoundAlpha {
  /** Absent when nothing beats leaving the input as it is. */
  readonly factors?: Float32Array;
  readonly note: string;
}

/** 0, 0.05 … 1. */
const alphas = Array.from({ length: 21 }, (_, i) => i / 20);
/** Weight rows that errors are measured on: of more the sum changes by little. */
const sampledRows = 128;

/**
 * Stops for breath after each alpha: thousands of channels take a while.
 * @param candidate the factors for an alpha
 * @throws never: without sample rows it says so in the note and leaves the input as it is
 */
export function* searchAlpha(
  stats: ChannelStats,
  batch: Batch,
  sources: readonly WeightSource[],
  shape: RowShape,
  candidate: (alpha: number) => Float32Array,
): Steps<FoundAlpha> {
  const { samples } = stats;
  if (!samples) return { note: 'not smoothed: the statistics hold no sample rows, which smooth.alpha=search needs' };
  const weights = sampleWeights(batch, sources);
  const errorOf = (factors: Float32Array) => predictedError(stats, samples, batch, weights, shape, factors);
  const unsmoothed = errorOf(new Float32Array(stats.channels).fill(1));
  let best: { alpha: number; factors: Float32Array; error: number } | undefined;
  for (const alpha of alphas) {
    const factors = candidate(alpha);
    const error = errorOf(factors);
    if (error < (best?.error ?? unsmoothed)) best = { alpha, factors, error };
    yield undefined;
  }
  if (!best) return { note: 'not smoothed: no alpha lowers the predicted error' };
  const left = Math.round((100 * best.error) / unsmoothed);
  return {
    factors: best.factors,
    note: `smoothed, alpha ${best.alpha} of the search (${left} % of the error is left)`,
  };
}

interface SampledWeights {
  readonly settings: WeightSettings;
  /** Rows of the layer that one sampled row stands for. */
  readonly share: number;
  readonly rows: readonly Float32Array[];
}

function sampleWeights({ members }: Batch, sources: readonly WeightSource[]): SampledWeights[] {
  const total = sources.reduce((sum, source) => sum + sizeOf(source).N, 0);
  return sources.map((source, i) => {
    const { N } = sizeOf(source);
    const count = Math.min(N, Math.ceil((sampledRows * N) / total));
    const read = rowReader(source);
    const rows = Array.from({ length: count }, (_, row) => read(Math.floor((row * N) / count)).slice());
    return { settings: members[i]!.settings.weight, share: N / count, rows };
  });
}

function predictedError(
  stats: ChannelStats,
  samples: Float32Array,
  { settings: { activation } }: Batch,
  weights: readonly SampledWeights[],
  { groupSize, outlierChannels, sorted }: RowShape,
  factors: Float32Array,
): number {
  const K = factors.length;
  const smoothed = smoothedStats(stats, factors);
  const order = sorted ? channelOrder([smoothed], sorted) : Int32Array.from({ length: K }, (_, k) => k);
  const cut = (format: string, clip: number, groups: number) =>
    segmentsOf({ format, clip, groupSize: groups, outlierChannels } as RowFormat, K);
  const power = Float64Array.from(order, (k) => smoothed.meanSquare[k]!);
  const energy = new Float64Array(K);
  const row = new Float32Array(K);
  const squares = new Float64Array(K);
  let error = 0;
  for (const { settings, share, rows } of weights) {
    const segments = cut(settings.format, settings.clip, settings.groupSize && groupSize);
    for (const natural of rows) {
      order.forEach((k, i) => (row[i] = natural[k]! * factors[k]!));
      squaredErrors(row, segments, quantizeWeights, squares);
      for (let i = 0; i < K; i++) {
        error += share * power[i]! * squares[i]!;
        energy[i]! += share * row[i]! ** 2;
      }
    }
  }
  const segments = cut(activation.format, activation.clip, activation.groupSize && groupSize);
  const count = samples.length / K;
  for (let at = 0; at < samples.length; at += K) {
    order.forEach((k, i) => (row[i] = samples[at + k]! / factors[k]!));
    squaredErrors(row, segments, quantizeActivations, squares);
    for (let i = 0; i < K; i++) error += (energy[i]! * squares[i]!) / count;
  }
  return error;
}

type Quantize = (values: Float32Array, format: AnyFormat, clip: number, codes: Int8Array) => number;
type AnyFormat = ActivationFormat | WeightFormat;

const quantizeActivations = quantizeSegment as Quantize;

const bits = new Uint32Array(1);
const single = new Float32Array(bits.buffer);

const quantizeWeights: Quantize = (values, format, clip, codes) => {
  bits[0] = amaxBits(values);
  const { scale } = weightScale(single[0]!, format as WeightFormat, clip);
  quantizeWithScale(values, format, scale, codes);
  return scale;
};

/** (x − dequantized x)² of each channel. */
function squaredErrors(row: Float32Array, segments: readonly Segment[], quantize: Quantize, out: Float64Array): void {
  for (const { start, length, format, clip } of segments) {
    const values = row.subarray(start, start + length);
    const codes = new Int8Array(length);
    const scale = quantize(values, format, clip, codes);
    const grid = isMinifloat(format) ? minifloatValues(format) : undefined;
    for (let i = 0; i < length; i++) {
      const code = codes[i]!;
      out[start + i] = (values[i]! - (grid ? grid[code & 255]! : code) * scale) ** 2;
    }
  }
}
