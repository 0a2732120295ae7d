import type { InferenceSession } from 'onnxruntime-common';
import { inputError } from '../../../ops/common/errors.js';
import { readTextFacts, type CacheForm, type Padding, type TextFacts } from './facts.js';
import type { ModelIo } from './session.js';

type Metadata = InferenceSession.TensorValueMetadata;

/** A cache tensor: what goes in, and the output that takes its place in the next step. */
export interface PastInput {
  readonly input: Metadata;
  readonly output: string;
}

/**
 * How to feed a language model: which input is what. Found from names and types, so decoders with and without a cache,
 * of any exporter, and encoders with text inputs are all fed by the same code.
 */
export interface TextModel {
  readonly ids: Metadata;
  /** Inputs besides ids and cache. */
  readonly extras: readonly { readonly input: Metadata; readonly kind: ExtraKind }[];
  readonly past: readonly PastInput[];
  /** The output with one row of scores a token: `logits`, else the first output that is no cache. */
  readonly logits: string;
  /** Entries of the vocabulary: rows of the embedding, else scores a token, as far as known. */
  readonly vocabulary: number | undefined;
  /** Sizes of symbolic cache dimensions. */
  readonly dims: Readonly<Record<string, number>>;
  /** How prompts of different lengths share a run; undefined: they cannot. */
  readonly padding: Padding | undefined;
  readonly cache: CacheForm;
  /** Whether a prompt may come in several runs. */
  readonly pieces: TextFacts['pieces'];
  /** The longest text, as far as known. */
  readonly positions: number | undefined;
  readonly positionsOf: TextFacts['positionsOf'];
}

export type ExtraKind = 'mask' | 'positions' | 'types' | 'use-cache' | 'keep-logits' | 'cache-positions';

const kinds: readonly (readonly [RegExp, ExtraKind])[] = [
  [/attention_mask$/, 'mask'],
  [/position_ids$/, 'positions'],
  [/token_type_ids$/, 'types'],
  [/^use_cache(_branch)?$/, 'use-cache'],
  [/^(num_)?logits_to_keep$/, 'keep-logits'],
  [/^cache_position$/, 'cache-positions'],
];

const idNames = ['input_ids', 'tokens', 'decoder_input_ids', 'ids'];
/** `past_key_values.0.key` and `present.0.key` name one cache. */
export const cacheSlot = (name: string) =>
  /^(?:past_key_values|present_key_values|past|present)[._]?(.*)$/.exec(name)?.[1];

/**
 * Recognizes the inputs of a text model.
 * @param io a session, or `modelIo` of a model
 * @param facts what only the graph tells; default: what the metadata says. Needed where the cache's head size is symbolic (onnxruntime-genai)
 * @throws input error that names an input it cannot feed
 */
export function describeTextModel(io: ModelIo, facts: TextFacts = readTextFacts(io.modelMetadata)): TextModel {
  const inputs = io.inputMetadata.filter((each) => each.isTensor);
  const ids =
    idNames.map((name) => inputs.find((each) => each.name === name)).find((each) => each !== undefined) ??
    inputs.find((each) => /^int(32|64)$/.test(each.type) && each.shape.length === 2 && kindOf(each.name) === undefined);
  if (!ids) {
    const names = io.inputNames.join(', ');
    throw inputError(
      'model',
      `has inputs ${names}, expected token ids named ${idNames.join(', ')}`,
      'Give recorded feeds instead of text.',
    );
  }
  const past: PastInput[] = [];
  const extras: TextModel['extras'][number][] = [];
  for (const input of inputs) {
    if (input === ids) continue;
    const kind = kindOf(input.name);
    const slot = cacheSlot(input.name);
    if (kind) extras.push({ input, kind });
    else if (slot !== undefined) past.push({ input, output: presentOf(io, input.name, slot) });
    else
      throw inputError(
        input.name,
        `is an input that text cannot fill (${input.type}), expected ids, masks, positions or a past cache`,
        'Give recorded feeds instead of text.',
      );
  }
  const logits =
    io.outputNames.find((name) => name === 'logits') ?? io.outputNames.find((name) => cacheSlot(name) === undefined);
  if (logits === undefined) throw inputError('model', `has outputs ${io.outputNames.join(', ')}, expected logits`);
  const metadata = io.outputMetadata.find((each) => each.name === logits);
  const width = metadata?.isTensor ? metadata.shape.at(-1) : undefined;
  const scores = typeof width === 'number' && width > 0 ? width : undefined;
  return {
    ids,
    extras,
    past,
    logits,
    vocabulary: facts.vocabulary ?? scores,
    dims: facts.dims ?? {},
    padding: paddingOf(
      past.length > 0,
      extras.some(({ kind }) => kind === 'mask'),
      facts,
    ),
    cache: facts.cache ?? 'growing',
    pieces: facts.pieces,
    positions: facts.positions,
    positionsOf: facts.positionsOf,
  };
}

/** Without a cache nothing comes after the padding; with one, only a mask can hide it. */
function paddingOf(hasCache: boolean, hasMask: boolean, facts: TextFacts): Padding | undefined {
  if (!hasCache) return 'right';
  return hasMask ? facts.padding : undefined;
}

function kindOf(name: string): ExtraKind | undefined {
  return kinds.find(([pattern]) => pattern.test(name))?.[1];
}

function presentOf(io: ModelIo, input: string, slot: string): string {
  const output = io.outputNames.find((name) => name !== input && cacheSlot(name) === slot);
  if (output === undefined) throw inputError(input, `has no output that continues it, expected present.${slot}`);
  return output;
}
