/** Weight codes of a linear layer: what is stored. */
export interface WeightSettings {
  readonly format: 's4' | 's8';
  /** Input channels that share a scale; 0 = one scale per output channel. */
  readonly groupSize: number;
  /** Share of a group's absolute maximum that the codes reach; the rest saturates. Not used for outlier channels. */
  readonly clip: number;
  /** Adjacent output rows that share a scale (Atom: 2). */
  readonly channelGroup: 1 | 2;
  readonly rounding: 'rtn';
}

/** Activation codes: what is computed at run time in front of a linear layer. */
export interface ActivationSettings {
  /** `none` leaves activations in float (weight-only). */
  readonly format: 's4' | 's8' | 'none';
  /** Channels that share a scale; 0 = one scale per token. */
  readonly groupSize: number;
  readonly clip: number;
}

/** Input channels that stay in 8 bits, moved to the end of the channel axis. */
export interface OutlierSettings {
  /** How many; 0 only sorts the channels. */
  readonly channels: number;
  /** Calibration statistic that ranks the channels. */
  readonly rankBy: 'mean-square' | 'abs-mean' | 'abs-max';
  /** Channels are sorted by rising rank, so that groups hold channels of similar energy and outliers come last. */
  readonly order: 'ascending';
}

/** The part of a recipe that an override may change for some layers. */
export interface SiteSettings {
  readonly weight: WeightSettings;
  readonly activation: ActivationSettings;
  readonly outliers: OutlierSettings | null;
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

/** Override that every recipe here starts from. */
export const keepLmHead: Override = {
  match: { role: 'lm_head' },
  keep: 'the output head is the most sensitive weight',
};
