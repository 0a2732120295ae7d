import { Tensor } from 'onnxruntime-common';
import type { InferenceSession } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import type { Feeds, ModelIo } from './session.js';
import type { TextFacts } from './facts.js';

type Metadata = InferenceSession.TensorValueMetadata;
type Shape = readonly (number | string)[];

/** A cache tensor: what goes in, and the output that takes its place in the next step. */
interface PastInput {
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
  readonly dims: ReadonlyMap<string, number>;
}

type ExtraKind = 'mask' | 'positions' | 'types' | 'use-cache' | 'keep-logits' | 'cache-positions';

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
const cacheSlot = (name: string) => /^(?:past_key_values|present_key_values|past|present)[._]?(.*)$/.exec(name)?.[1];

/**
 * Recognizes the inputs of a text model.
 * @param io a session, or `modelIo` of a model
 * @param facts what only the graph tells, from `textFacts`; needed where the cache's head size is symbolic (onnxruntime-genai)
 * @throws input error that names an input it cannot feed
 */
export function describeTextModel(io: ModelIo, facts: TextFacts = {}): TextModel {
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
    dims: facts.dims ?? new Map(),
  };
}

function kindOf(name: string): ExtraKind | undefined {
  return kinds.find(([pattern]) => pattern.test(name))?.[1];
}

function presentOf(io: ModelIo, input: string, slot: string): string {
  const output = io.outputNames.find((name) => name !== input && cacheSlot(name) === slot);
  if (output === undefined) throw inputError(input, `has no output that continues it, expected present.${slot}`);
  return output;
}

function integers(input: Metadata, values: readonly number[], shape: readonly number[]): Tensor {
  switch (input.type) {
    case 'int64':
      return new Tensor('int64', BigInt64Array.from(values, BigInt), shape);
    case 'int32':
      return new Tensor('int32', Int32Array.from(values), shape);
    case 'float32':
      return new Tensor('float32', Float32Array.from(values), shape);
    case 'bool':
      return new Tensor('bool', Uint8Array.from(values), shape);
    default:
      throw inputError(input.name, `is ${input.type}, expected int64, int32, float32 or bool`);
  }
}

const span = (start: number, count: number) => Array.from({ length: count }, (_, i) => start + i);

function extraTensor({ input, kind }: TextModel['extras'][number], start: number, count: number): Tensor {
  const rank = input.shape.length;
  if (kind === 'mask' && rank !== 2) throw inputError(input.name, `has rank ${rank}, expected 2 (batch, all tokens)`);
  switch (kind) {
    case 'mask':
      return integers(input, span(0, start + count).fill(1), [1, start + count]);
    case 'positions':
      return integers(input, span(start, count), rank === 1 ? [count] : [1, count]);
    case 'types':
      return integers(input, span(0, count).fill(0), [1, count]);
    case 'use-cache':
      return integers(input, [start > 0 ? 1 : 0], rank === 0 ? [] : [1]);
    case 'keep-logits':
      return integers(input, [0], rank === 0 ? [] : [1]);
    case 'cache-positions':
      return integers(input, span(start, count), [count]);
    default:
      return kind satisfies never;
  }
}

/** A cache of no tokens: batch 1, symbolic sizes that are not known otherwise are the length, 0. */
function emptyPast({ name, type, shape }: Metadata, dims: ReadonlyMap<string, number>): Tensor {
  const last = shape.length - 1;
  const sizes = shape.map((dim, axis) => {
    if (typeof dim === 'number' && dim >= 0) return dim;
    const known = dims.get(String(dim));
    if (known !== undefined) return known;
    if (axis === 0 && shape.length === 4) return 1;
    if (axis === last)
      throw inputError(
        name,
        `has shape [${(shape as Shape).join(', ')}], expected a fixed last dimension`,
        `Say how large "${dim}" is.`,
      );
    return 0;
  });
  if (type === 'float32') return new Tensor('float32', new Float32Array(0), zeroLength(sizes));
  if (type === 'float16') return new Tensor('float16', new Uint16Array(0), zeroLength(sizes));
  if (type === 'uint8') return new Tensor('uint8', new Uint8Array(0), zeroLength(sizes));
  throw inputError(name, `is ${type}, expected a cache of float32, float16 or uint8 (quantized)`);
}

/** A fixed length (Optimum writes none, some exports 1) cannot be fed empty; the sequence axis of a cache is the third. */
function zeroLength(sizes: number[]): number[] {
  return sizes.includes(0) ? sizes : sizes.map((size, axis) => (axis === sizes.length - 2 ? 0 : size));
}

/**
 * Feeds of one step, batch 1.
 * @param ids the step's new tokens
 * @param start tokens that came before
 * @param past cache of those tokens by input name, from {@link nextPast}; left out at the start
 */
export function stepFeeds(model: TextModel, ids: ArrayLike<number>, start = 0, past?: Feeds): Feeds {
  const count = ids.length;
  const feeds: Feeds = { [model.ids.name]: integers(model.ids, Array.from(ids), [1, count]) };
  for (const extra of model.extras) feeds[extra.input.name] = extraTensor(extra, start, count);
  for (const { input } of model.past) feeds[input.name] = past?.[input.name] ?? emptyPast(input, model.dims);
  return feeds;
}

/** The cache outputs of a step, renamed to the inputs of the next. */
export function nextPast(model: TextModel, outputs: Readonly<Record<string, unknown>>): Feeds {
  return Object.fromEntries(model.past.map(({ input, output }) => [input.name, outputs[output] as Tensor]));
}
