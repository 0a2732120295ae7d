import { parseJson } from '../../../ops/common/json.js';

/**
 * Where a batch of prompts of different lengths is padded. `right`: attention takes the length of each sequence, and new tokens go behind
 * its own last one (GroupQueryAttention, QuantKvAttention with lengths). `left`: the mask alone says what is padding, and all sequences
 * end in the same column.
 */
export type Padding = 'left' | 'right';

/**
 * What becomes of the cache in a run. `growing`: the outputs are the inputs and the new tokens. `shareable`: that, or both may be one
 * buffer of a fixed capacity (GroupQueryAttention). `in_place`: always such a buffer.
 */
export type CacheForm = 'growing' | 'shareable' | 'in_place';

/**
 * What feeding a text model needs and only its graph tells. The rewriter writes it into the models it makes; of any other model,
 * `textFacts` of `ort-lowbit/rewriter` reads it.
 */
export interface TextFacts {
  /** Rows of the embedding that ids index. */
  readonly vocabulary?: number;
  /** Sizes of symbolic dimensions of cache inputs, such as a head size. */
  readonly dims?: Readonly<Record<string, number>>;
  /** Absent: sequences of different lengths cannot share a run. */
  readonly padding?: Padding;
  /** Default: growing. */
  readonly cache?: CacheForm;
  /**
   * Whether a prompt may come in several runs: `any` batch, or only `one` text at a time (GroupQueryAttention). Absent: not known, so all of it
   * in one run.
   */
  readonly pieces?: 'any' | 'one';
  /** Rows of the position table: the longest text. */
  readonly positions?: number;
  /**
   * What takes a row of that table each where prompts are padded on the left: tokens of `texts` alone, or (absent) columns of the cache, padding among
   * them.
   */
  readonly positionsOf?: 'texts';
}

/** Metadata key of a model: its `TextFacts`, JSON. */
export const textFactsKey = 'lowbit.text';

/** The facts in a model's metadata; none of a model that the rewriter did not make. @throws input error if they are not JSON */
export function readTextFacts(metadata: ReadonlyMap<string, string> | undefined): TextFacts {
  const text = metadata?.get(textFactsKey);
  if (text === undefined) return {};
  const facts = parseJson(text, `metadata "${textFactsKey}"`, 'what the rewriter wrote');
  return (facts ?? {}) as TextFacts;
}
