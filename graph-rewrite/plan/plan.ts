/**
 * The plan: every decision about a model, as JSON that a person reviews. Passes carry it out and decide nothing.
 */
import type { ActivationFormat, WeightFormat } from '../../ops/formats/formats.js';
import type { Role } from '../analyze/sites.js';
import type { ClipSearch, LorcSettings, Recipe, ScaleRule } from '../recipes/recipe.js';

/** Metadata key of the recipe that a rewritten model was made with, as JSON. */
export const recipeKey = 'lowbit.recipe';

/** What is done to the rows in front of a group of linear layers. */
export type InputDecision =
  /** The norm in front quantizes its own output. */
  | 'fuse-norm'
  /** The gated activation in front does. */
  | 'fuse-gate'
  /** The activation in front does. */
  | 'fuse-act'
  /** Attention with a quantized cache does. */
  | 'fuse-attention'
  /** A Quantize node of its own. */
  | 'quantize'
  /** Rows stay float (weight-only, or the products quantize them). */
  | 'float';

/** How the channels get into their order. */
export type Reorder =
  /** Natural order. */
  | 'none'
  /** Gathered at run time by the operator that quantizes. */
  | 'gather'
  /** The rows of the layers that produce the channels are permuted instead. */
  | 'fold'
  /** Like fold, inside each value head. */
  | 'fold-heads';

export interface PlanInput {
  /** Name of this entry; the float value's name, with a number if the value is quantized in several ways. */
  readonly id: string;
  /** The float value whose rows are quantized. */
  readonly value: string;
  readonly channels: number;
  readonly decision: InputDecision;
  /** Name of the norm, gate, activation or attention that is fused. */
  readonly producer?: string;
  readonly format: ActivationFormat | 'none';
  readonly groupSize: number;
  readonly clip: number;
  /** Channels that reach it at run time stay float; the products quantize the others themselves, so the decision is `float`. */
  readonly threshold?: number;
  readonly outlierChannels: number;
  readonly reorder: Reorder;
  /** Channel order, base64 of little-endian int32; absent for natural order. */
  readonly order?: string;
  /** Channel j arrives divided by factor j and the weights multiply it back; base64 of little-endian float32, natural order. */
  readonly smooth?: string;
  /** Mean square of each channel, encoded like `smooth`; of the smoothed input; only for a clip search that weighs errors by it. */
  readonly energy?: string;
  /** The norm takes over the Add in front of it. */
  readonly residual?: boolean;
  /** The norm's float output is still needed by others. */
  readonly floatOutput?: boolean;
  /** Linear layers that read it. */
  readonly sites: readonly string[];
  readonly notes: readonly string[];
}

export interface PlanWeight extends ScaleRule {
  readonly clipSearch?: ClipSearch;
  readonly format: WeightFormat;
  readonly groupSize: number;
  readonly clip: number;
  readonly channelGroup: 1 | 2;
  readonly outlierChannels: number;
  readonly rounding: 'rtn' | 'gptq';
  /** A low-rank term, of the whole product; absent for none. */
  readonly lorc?: LorcSettings;
}

interface PlanSiteBase {
  readonly site: string;
  readonly role: Role;
  readonly layer?: number;
  readonly K: number;
  readonly N: number;
}

export interface QuantizedSite extends PlanSiteBase {
  readonly decision: 'quantize';
  /** Entry of `inputs`. */
  readonly input: string;
  readonly weight: PlanWeight;
  /** Order of the rows (output channels), base64 of little-endian int32; absent for natural order. */
  readonly rowOrder?: string;
  /** Output channel n leaves divided by factor n: what follows is smoothed; encoded like `PlanInput.smooth`. */
  readonly rowSmooth?: string;
  /** Layers with the same name here become one product, in plan order. */
  readonly merge?: string;
  /** Packed weight, scales and outliers. */
  readonly bytes: number;
  readonly notes: readonly string[];
}

export interface KeptSite extends PlanSiteBase {
  readonly decision: 'keep';
  readonly reason: string;
  /** True if the recipe asked for it; false makes `--strict` fail. */
  readonly expected: boolean;
}

export type PlanSite = QuantizedSite | KeptSite;

export type PlanCache =
  | {
      /** Name of the attention. */
      readonly site: string;
      readonly layer?: number;
      readonly decision: 'quantize';
      readonly bits: 4 | 8;
      readonly rope: 'pre' | 'post' | 'none';
      readonly clip: number;
      readonly form: 'growing' | 'in_place';
      /** Cache of one token, keys and values, codes and parameters; and in float. */
      readonly bytesPerToken: number;
      readonly floatBytesPerToken: number;
      readonly notes: readonly string[];
    }
  | {
      readonly site: string;
      readonly layer?: number;
      readonly decision: 'keep';
      readonly reason: string;
      /** True if there is no cache; false makes `--strict` fail. */
      readonly expected: boolean;
    };

/** What GPTQ will take, see `rounding.ts`. */
export interface RoundingCost {
  /** Runs over the calibration data. */
  readonly passes: number;
  /** Largest sum of the Hessians of a pass, while they are collected. */
  readonly hessianBytes: number;
  /** Largest memory of one product while it is rounded. */
  readonly productBytes: number;
}

/** How `--budget` chose the layers that stay at 8 bits; see `sensitivity/`. Losses are KL divergences, nats a token. */
export interface BudgetReport {
  readonly budget: number;
  /** The sum over the groups, and of what the cache loses. */
  readonly predicted: number;
  /** With only the cache quantized; absent if it stays float. */
  readonly cacheLoss?: number;
  readonly groups: readonly {
    readonly sites: readonly string[];
    /** Weights in these layers. */
    readonly weights: number;
    /** With only these layers quantized by the recipe. */
    readonly loss: number;
    /** With only these layers at 8 bits; absent if they follow the recipe. */
    readonly lossAt8Bits?: number;
  }[];
}

/** Notes about what a recipe wants and a layer cannot have. */
export const shortfalls = {
  noStatistics: 'no calibration statistics for this input: channels keep their order',
  noRows: 'inside a subgraph, without calibration statistics that show GPTQ rows there: rounded to nearest',
} as const;

export interface Plan {
  readonly format: 1;
  readonly model: { readonly sha256: string; readonly path: string };
  readonly recipe: Recipe;
  readonly inputs: readonly PlanInput[];
  readonly sites: readonly PlanSite[];
  /** Only if there was a budget. */
  readonly budget?: BudgetReport;
  /** Only with a recipe that quantizes the cache. */
  readonly caches?: readonly PlanCache[];
  /** Bytes of all packed weights, and of all tensors of the rewritten model. */
  readonly predicted: {
    readonly linearBytes: number;
    readonly outputBytes: number;
    /** With GPTQ. */
    readonly rounding?: RoundingCost;
  };
}

/** int32 little-endian as base64. */
export function encodeOrder(order: Int32Array): string {
  const bytes = new DataView(new ArrayBuffer(order.length * 4));
  order.forEach((channel, i) => bytes.setInt32(4 * i, channel, true));
  return Buffer.from(bytes.buffer).toString('base64');
}

/** The inverse of `encodeOrder`. */
export function decodeOrder(text: string): Int32Array {
  const bytes = Buffer.from(text, 'base64');
  return Int32Array.from({ length: bytes.length >> 2 }, (_, i) => bytes.readInt32LE(4 * i));
}

/** float32 little-endian as base64. */
export function encodeFactors(factors: Float32Array): string {
  const bytes = new DataView(new ArrayBuffer(factors.length * 4));
  factors.forEach((factor, i) => bytes.setFloat32(4 * i, factor, true));
  return Buffer.from(bytes.buffer).toString('base64');
}

/** The inverse of `encodeFactors`. */
export function decodeFactors(text: string): Float32Array {
  const bytes = Buffer.from(text, 'base64');
  return Float32Array.from({ length: bytes.length >> 2 }, (_, i) => bytes.readFloatLE(4 * i));
}
