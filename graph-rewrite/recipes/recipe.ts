import type { ActivationFormat, WeightFormat } from '../../ops/formats/formats.js';

/** Constraint on the group scales of weights, see `pack/scale-rule.ts`; none by default. */
export interface ScaleRule {
  /** `m1`: powers of two. `m2`: the row's largest times powers of two. Default: `none`. */
  readonly scaleConstraint?: 'none' | 'm1' | 'm2';
  /**
   * How the exponent is rounded: of log2(scale) for M1, of log2(largest / scale) for M2. M1 with `ceil` and M2 with `floor` never saturate.
   * `best` (default) takes the one of both with the smaller squared error, group by group, and for M2 the best of four largest scales.
   */
  readonly scaleRound?: 'ceil' | 'floor' | 'best';
}

/**
 * Whether each group of weights searches the clip ratio that loses least, instead of the recipe's: by squared error, or by squared error weighted
 * with the energy of the channel's activations.
 */
export type ClipSearch = 'none' | 'mse' | 'hessian';

/** Weight codes of a linear layer: what is stored. */
export interface WeightSettings extends ScaleRule {
  readonly format: WeightFormat;
  /** Input channels that share a scale; 0 = one scale per output channel. */
  readonly groupSize: number;
  /** Share of a group's absolute maximum that the codes reach; the rest saturates. Not used for outlier channels. */
  readonly clip: number;
  /** Default: `none`. Takes the place of `clip`. */
  readonly clipSearch?: ClipSearch;
  /** Adjacent output rows that share a scale (Atom: 2). */
  readonly channelGroup: 1 | 2;
  /** `rtn`: to the nearest code. `gptq`: one input channel after the other, each error moved into the channels that follow. */
  readonly rounding: 'rtn' | 'gptq';
}

/** How weights with rounding `gptq` are rounded (Frantar et al., arXiv 2210.17323). */
export interface GptqSettings {
  /** Damping added to the Hessian's diagonal, as a share of its mean. */
  readonly percdamp: number;
  /** `atom`: channels in stored order, the least salient first. `body_desc`: the body from its last channel to its first. */
  readonly order: 'atom' | 'body_desc';
  /** The absolute maximum of a group maps to this code (for s8: 127, 127.5). Atom's GPTQ divides by 7.5. */
  readonly scale: 'max/7' | 'max/7.5';
  /** Inputs of a layer from the float model, or from the model with all earlier blocks quantized. */
  readonly hessian: 'float' | 'sequential';
  /** MiB for Hessians: as many inputs as fit share a pass over the calibration data. */
  readonly memory: number;
}

/** Activation codes: what is computed at run time in front of a linear layer. */
export interface ActivationSettings {
  /** `none` leaves activations in float (weight-only). */
  readonly format: ActivationFormat | 'none';
  /** Channels that share a scale; 0 = one scale per token. */
  readonly groupSize: number;
  readonly clip: number;
  /**
   * LLM.int8(): input channels that reach this magnitude in some row of a call are multiplied in float, with weights as they are
   * stored. 0 or absent: none are.
   */
  readonly threshold?: number;
}

/** Input channels that stay in 8 bits, moved to the end of the channel axis. */
export interface OutlierSettings {
  /** How many; 0 only sorts the channels. */
  readonly channels: number;
  /** Calibration statistic that ranks the channels. */
  readonly rankBy: 'mean-square' | 'abs-mean' | 'abs-max';
  /**
   * `ascending`: channels are sorted by rising rank, so that groups hold channels of similar energy and outliers come last.
   * `range-clusters`: clusters of similar minimum and maximum, the widest last (RPTQ); inside heads (`oReorder`) by rank all the same.
   */
  readonly order: 'ascending' | 'range-clusters';
}

/**
 * SmoothQuant (Xiao et al., arXiv 2211.10438): channel j of the rows is divided by s_j = max|x_j|^alpha / max|w_j|^(1 − alpha), and the
 * weights behind it are multiplied by it, so that outliers of activations move into weights. Costs nothing at run time: the division is
 * folded into what makes the rows.
 */
export interface SmoothSettings {
  /** 0: weights end up with equal maxima, 1: activations do. `search`: for each input the one with the least predicted error. */
  readonly alpha: number | 'search';
  /** `norms`: inputs that come from a norm (the paper). `all`: also those of o_proj and down_proj, by the rows of v and up. */
  readonly at: 'norms' | 'all';
}

/** The key and value cache of attention. */
export interface KvSettings {
  /** Of a cache code; 0 leaves cache and attention as they are. */
  readonly bits: 0 | 4 | 8;
  /** Keys are quantized before RoPE (Atom: they have steadier ranges there) or after it. */
  readonly rope: 'pre' | 'post';
  /** Share of the range of a token's head that the codes span. */
  readonly clip: number;
  /** Each run's cache outputs are longer than its inputs; or both have the size of a buffer that the host made, and may be that buffer. */
  readonly form: 'growing' | 'in_place';
}

/** A term of low rank that takes part of the rounding error back (LoRC, ZeroQuant-V2, arXiv 2303.08302). */
export interface LorcSettings {
  /** Of the term; 0: none. Layers that become one product share one term. */
  readonly rank: number;
  /** Of a value of its factors. */
  readonly bits: 8 | 16;
}

/** The part of a recipe that an override may change for some layers. */
export interface SiteSettings {
  readonly weight: WeightSettings;
  readonly activation: ActivationSettings;
  readonly outliers: OutlierSettings | null;
  /** Absent or null: activations are quantized as they are. */
  readonly smooth?: SmoothSettings | null;
  /** What is absent has its default: no term. */
  readonly lorc?: Partial<LorcSettings>;
}

/** What an override is about: every field that is given must match. */
export interface SiteMatch {
  readonly role?: string;
  /** Node name; `*` stands for any text, `?` for one character. */
  readonly name?: string;
  readonly layer?: number;
}

export interface Override {
  readonly match: SiteMatch;
  /** Leave the layer in float, for this reason. */
  readonly keep?: string;
  readonly set?: {
    readonly weight?: Partial<WeightSettings>;
    readonly activation?: Partial<ActivationSettings>;
    readonly outliers?: Partial<OutlierSettings> | null;
    readonly smooth?: Partial<SmoothSettings> | null;
    readonly lorc?: Partial<LorcSettings>;
  };
}

/** How to quantize a model. Data only: a recipe is its own JSON. */
export interface Recipe extends SiteSettings {
  readonly name: string;
  readonly about: string;
  readonly version: 1;
  /**
   * Channel order in front of o_proj, whose input is the attention output: `global` sorts across heads (Atom; a gather at run time),
   * `head` sorts inside each head (folded into the rows of v_proj), `none` keeps the order.
   */
  readonly oReorder: 'global' | 'head' | 'none';
  readonly merge: { readonly qkv: boolean | 'auto'; readonly gateUp: boolean };
  /** Used where weight.rounding is gptq; what is absent has its default. */
  readonly gptq?: Partial<GptqSettings>;
  /** What is absent has its default: no quantized cache. */
  readonly kv?: Partial<KvSettings>;
  /** The first override that matches a layer is the only one applied to it. */
  readonly overrides: readonly Override[];
}

/** A linear layer as overrides see it. */
export interface SiteLabel {
  readonly name: string;
  readonly role: string;
  readonly layer?: number | undefined;
}

/** Outlier settings when a recipe without them is given some of their fields. */
export const defaultOutliers: OutlierSettings = { channels: 128, rankBy: 'mean-square', order: 'ascending' };

/** Smoothing when a recipe without it is given one of its fields. */
export const defaultSmooth: SmoothSettings = { alpha: 0.5, at: 'norms' };

/** GPTQ settings of a recipe that does not say otherwise. */
export const defaultGptq: GptqSettings = {
  percdamp: 0.01,
  order: 'body_desc',
  scale: 'max/7.5',
  hessian: 'float',
  memory: 1024,
};

/** Cache settings of a recipe that does not say otherwise. */
export const defaultKv: KvSettings = { bits: 0, rope: 'pre', clip: 1, form: 'growing' };

/** Low-rank settings of a recipe that does not say otherwise. */
export const defaultLorc: LorcSettings = { rank: 0, bits: 8 };

/** Override that every recipe here starts from. */
export const keepLmHead: Override = {
  match: { role: 'lm_head' },
  keep: 'the output head is the most sensitive weight',
};
