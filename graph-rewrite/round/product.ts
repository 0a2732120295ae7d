/** GPTQ of one product: float rows and a Hessian in, packed parts and losses out. */
import { inputError, LowbitError } from '../../ops/common/errors.js';
import { largestOf, type WeightFormat } from '../../ops/formats/formats.js';
import { isMinifloat } from '../../ops/formats/minifloat.js';
import type { Addon } from '../../native/js/addon.js';
import { floatRows, packCodes, unpackFloats } from '../pack/codes.js';
import { packedSizes, packLinear, type Parts } from '../pack/linear.js';
import type { Product } from '../plan/products.js';
import type { GptqSettings } from '../recipes/recipe.js';
import { addLorc } from './lorc.js';
import type { GptqRecord, RoundedLayer } from './store.js';

/** The native functions that rounding needs; see `native/js/addon.ts`. */
export type RoundingFunctions = Pick<Addon, 'gptq' | 'quadraticForm' | 'lowRank'>;

/** A product as it is stored, and what is known of it. */
export interface RoundedProduct {
  readonly parts: Parts;
  readonly record: RoundedLayer;
}

/**
 * Rounds one product, and adds its low-rank term if it has one.
 * @param hessian Σ x·xᵀ [K, K] in the channel order of the float model, for GPTQ; left as it is. Without it: to nearest
 * @throws input error that names the product
 */
export async function roundProduct(
  product: Product,
  hessian: Float32Array | undefined,
  settings: GptqSettings,
  native: RoundingFunctions,
  threads: number,
): Promise<RoundedProduct> {
  const started = performance.now();
  const { name, sources, spec } = product;
  const { N, K } = packedSizes(name, sources, spec);
  const rounded = hessian
    ? await byGptq(product, hessian, settings, native, threads)
    : { parts: nearestParts(product), record: undefined };
  const term = spec.lorc ? await addLorc(product, rounded.parts, native, threads) : undefined;
  return {
    parts: term?.parts ?? rounded.parts,
    record: {
      ...{ name, K, N },
      ...(rounded.record ? { gptq: rounded.record } : {}),
      ...(term ? { lorc: term.record } : {}),
      seconds: (performance.now() - started) / 1000,
    },
  };
}

/** Rounded to nearest. */
function nearestParts({ name, sources, spec }: Product): Parts {
  const { b, bScale, bOutlier, bOutlierScale } = packLinear(name, sources, spec);
  const none = new Uint8Array(0);
  return {
    ...{ b: b.bytes(), bScale: bScale.bytes() },
    ...{ bOutlier: bOutlier?.bytes() ?? none, bOutlierScale: bOutlierScale?.bytes() ?? none },
  };
}

/**
 * Rounds by GPTQ.
 * @param hessian Σ x·xᵀ [K, K] in the channel order of the float model; left as it is
 * @throws input error that names the product
 */
async function byGptq(
  product: Product,
  hessian: Float32Array,
  settings: GptqSettings,
  native: RoundingFunctions,
  threads: number,
): Promise<{ parts: Parts; record: GptqRecord }> {
  const { name, sources, spec, smooth } = product;
  const sizes = packedSizes(name, sources, spec);
  const { N, K } = sizes;
  const weights = floatRows(name, sources, spec);
  const ordered = storedHessian(hessian, K, spec.columnOrder, smooth);
  const result = await native
    .gptq(weights.slice(), ordered.slice(), {
      ...{ rows: N, cols: K, outlierChannels: sizes.outliers, threads },
      ...{ groupSize: spec.groupSize, channelGroup: spec.channelGroup, clip: spec.clip },
      grid: spec.format,
      clipSearch: spec.clipSearch ?? 'none',
      scaleConstraint: spec.scaleConstraint ?? 'none',
      scaleRound: spec.scaleRound ?? 'best',
      rangeMax: rangeMax(spec.format, settings.scale),
      percdamp: settings.percdamp,
      bodyDescending: settings.order === 'body_desc',
    })
    .catch((cause: unknown) => {
      if (cause instanceof LowbitError) throw cause;
      throw inputError(
        name,
        (cause as Error).message,
        'Give more calibration data, or keep this layer in float.',
        cause,
      );
    });
  const parts = packCodes(name, result, spec, sizes);
  const sample = sampled(weights, K);
  const energy = await native.quadraticForm(sample, ordered, K, threads);
  const lossOf = async (packed: Parts) => {
    const delta = sampled(unpackFloats(packed, spec, sizes), K);
    for (let i = 0; i < delta.length; i++) delta[i] = sample[i]! - delta[i]!;
    return (await native.quadraticForm(delta, ordered, K, threads)) / (energy || 1);
  };
  const loss = await lossOf(parts);
  const nearestLoss = await lossOf(nearestParts(product));
  return { parts, record: { loss, nearestLoss, damping: result.damping / meanDiagonal(ordered, K) } };
}

/** What a group's absolute maximum is divided by: the largest code, or half a step more (Atom: 2·absmax / 15). */
function rangeMax(format: WeightFormat, scale: GptqSettings['scale']): number {
  return largestOf(format) + (scale === 'max/7.5' && !isMinifloat(format) ? 0.5 : 0);
}

/** The Hessian of the channels as the product reads them: smoothed, which divides rows and columns, and in stored order. */
function storedHessian(
  hessian: Float32Array,
  K: number,
  order: Int32Array | undefined,
  smooth: Float32Array | undefined,
): Float32Array {
  if (!order && !smooth) return hessian.slice();
  const channel = order ?? Int32Array.from({ length: K }, (_, k) => k);
  const inverse = Float64Array.from(channel, (k) => (smooth ? 1 / smooth[k]! : 1));
  const out = new Float32Array(K * K);
  for (let i = 0; i < K; i++) {
    const from = channel[i]! * K;
    const to = i * K;
    for (let j = 0; j < K; j++) out[to + j] = hessian[from + channel[j]!]! * inverse[i]! * inverse[j]!;
  }
  return out;
}

/** Rows that losses are measured on: on all of them it would take longer than the rounding. */
const sampledRows = 1024;

/** At most `sampledRows` rows of [N, K], evenly spread; all of them where there are fewer. */
function sampled(rows: Float32Array, K: number): Float32Array {
  const N = rows.length / K;
  if (N <= sampledRows) return rows;
  const out = new Float32Array(sampledRows * K);
  for (let i = 0; i < sampledRows; i++) {
    const row = Math.floor((i * N) / sampledRows) * K;
    out.set(rows.subarray(row, row + K), i * K);
  }
  return out;
}

function meanDiagonal(hessian: Float32Array, K: number): number {
  let sum = 0;
  for (let k = 0; k < K; k++) sum += hessian[k * (K + 1)]!;
  return sum / K || 1;
}
