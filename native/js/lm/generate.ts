import { inputError, usageError } from '../../../ops/common/errors.js';
import { Decoding } from './decoding.js';
import { checkIds, checkIsList } from './ids.js';
import { checkPrompt } from './prompts.js';
import { createSampler, scoresNeeded, type SampleOptions, type Sampler } from './sample.js';
import type { Scores } from './scores.js';
import type { TextModel } from './text-model.js';
import type { TextSession } from './text-session.js';

export interface GenerateOptions extends SampleOptions {
  /** Token ids of each text; their lengths may differ. */
  readonly prompts: readonly (readonly number[])[];
  /** New tokens of each text at most. Default 128. */
  readonly maxNewTokens?: number;
  /** Ids that end a text; they are not given out. */
  readonly stopIds?: readonly number[];
  /** Runs of ids that end a text once it has them all. Given out like any other. */
  readonly stopSequences?: readonly (readonly number[])[];
  /** Called with each token as soon as it is chosen; false ends that text. */
  readonly onToken?: (text: number, id: number) => unknown;
  /** See `DecodingOptions`. */
  readonly tokensPerRun?: number;
  /** Ends the loop early, without an error: the tokens so far are the result. */
  readonly signal?: AbortSignal | undefined;
  /** Most tokens of a text, prompt included, where the cache is a buffer of fixed size. Default: what is asked for. */
  readonly capacity?: number;
}

/**
 * Why a text ended: a token of stopIds; a sequence of stopSequences; maxNewTokens; the position table or the capacity is full; onToken gave
 * false; the signal.
 */
export type StopReason = 'stop-token' | 'stop-sequence' | 'length' | 'context' | 'callback' | 'aborted';

export interface GeneratedText {
  /** New tokens. */
  readonly ids: number[];
  readonly stopped: StopReason;
  readonly promptTokens: number;
}

export interface Generation {
  /** In the order of the prompts. */
  readonly texts: GeneratedText[];
  readonly promptTokens: number;
  readonly newTokens: number;
  /** Time to the first tokens. */
  readonly prefillSeconds: number;
  /** Time of the steps after them. */
  readonly decodeSeconds: number;
  readonly prefillTokensPerSecond: number;
  /** Tokens after the first of each text, by the time they took. */
  readonly decodeTokensPerSecond: number;
}

/**
 * Continues prompts. Equal options give equal texts; text i draws with the seed `seed + i`, so that it does not depend on the others.
 * @throws usage error for options without a meaning, input error for prompts that do not fit the model
 */
export async function generate(text: TextSession, options: GenerateOptions): Promise<Generation> {
  const { prompts, seed = 0 } = options;
  checkWords(options);
  if (prompts.length === 0) throw inputError('prompts', 'has no texts, expected at least one');
  prompts.forEach((prompt, i) => checkPrompt(text.model, prompt, `prompts[${i}]`));
  const texts = prompts.map((prompt, i) => new Text(i, prompt, createSampler({ ...options, seed: seed + i }), options));
  const times = { prompts: 0, prefill: 0, decode: 0 };
  for (const lane of lanes(text.model, texts)) {
    if (options.signal?.aborted) break;
    await runLane(text, lane, options, times);
  }
  const promptTokens = texts.reduce((sum, { prompt }) => sum + prompt.length, 0);
  const newTokens = texts.reduce((sum, { ids }) => sum + ids.length, 0);
  const decoded = texts.reduce((sum, { ids }) => sum + Math.max(0, ids.length - 1), 0);
  return {
    texts: texts.map(({ ids, prompt, stopped }) => ({
      ids,
      stopped: stopped ?? 'aborted',
      promptTokens: prompt.length,
    })),
    ...{ promptTokens, newTokens, prefillSeconds: times.prefill, decodeSeconds: times.decode },
    prefillTokensPerSecond: times.prompts > 0 ? times.prompts / times.prefill : 0,
    decodeTokensPerSecond: decoded > 0 ? decoded / times.decode : 0,
  };
}

/** Types too: what is no id never ends a text. */
function checkWords({ prompts, maxNewTokens = 128, stopIds = [], stopSequences = [], onToken }: GenerateOptions): void {
  if (!Number.isInteger(maxNewTokens) || maxNewTokens < 1)
    throw usageError('maxNewTokens', `is ${JSON.stringify(maxNewTokens)}, expected an integer of at least 1`);
  checkIsList(prompts, 'prompts', 'texts, each an array of token ids');
  checkIsList(stopIds, 'stopIds', 'token ids');
  checkIds(stopIds, undefined, 'stopIds');
  checkIsList(stopSequences, 'stopSequences', 'arrays of token ids');
  stopSequences.forEach((ids, i) => {
    checkIsList(ids, `stopSequences[${i}]`, 'token ids');
    checkIds(ids, undefined, `stopSequences[${i}]`);
  });
  if (onToken !== undefined && typeof onToken !== 'function')
    throw usageError('onToken', `is ${JSON.stringify(onToken)}, expected a function`);
}

/** One text on its way. */
class Text {
  readonly index: number;
  readonly prompt: readonly number[];
  readonly ids: number[] = [];
  stopped: StopReason | undefined;
  readonly #sample: Sampler;
  readonly #options: GenerateOptions;

  constructor(index: number, prompt: readonly number[], sample: Sampler, options: GenerateOptions) {
    this.index = index;
    this.prompt = prompt;
    this.#sample = sample;
    this.#options = options;
  }

  /** Chooses the next token. */
  sample(scores: Float32Array, ids?: ArrayLike<number>): number {
    return this.#sample(scores, this.#everything(), ids);
  }

  /** Takes the next token, and decides whether it is the last. */
  push(id: number): void {
    const { stopIds = [], stopSequences = [], onToken, maxNewTokens = 128 } = this.#options;
    if (stopIds.includes(id)) {
      this.stopped = 'stop-token';
      return;
    }
    this.ids.push(id);
    if (onToken?.(this.index, id) === false) this.stopped = 'callback';
    else if (stopSequences.some((sequence) => this.#endsWith(sequence))) this.stopped = 'stop-sequence';
    else if (this.ids.length === maxNewTokens) this.stopped = 'length';
  }

  *#everything(): Iterable<number> {
    yield* this.prompt;
    yield* this.ids;
  }

  #endsWith(sequence: readonly number[]): boolean {
    const from = this.ids.length - sequence.length;
    return sequence.length > 0 && from >= 0 && sequence.every((id, i) => this.ids[from + i] === id);
  }
}

/** Texts that share their runs: all, or where the model cannot pad, those of one length; one by one where its batch is fixed to 1. */
function lanes(model: TextModel, texts: readonly Text[]): Text[][] {
  if (model.ids.shape[0] === 1) return texts.map((text) => [text]);
  if (model.padding !== undefined) return [[...texts]];
  const byLength = new Map<number, Text[]>();
  for (const text of texts) {
    const { length } = text.prompt;
    byLength.set(length, [...(byLength.get(length) ?? []), text]);
  }
  return [...byLength.values()];
}

/** The next token of each text that goes on. */
async function chooseAll(texts: readonly Text[], scores: Scores, options: GenerateOptions): Promise<number[]> {
  const needed = scoresNeeded(options);
  if (needed !== undefined) {
    const tops = await scores.top(needed);
    return texts.map((text, b) => (text.stopped ? 0 : text.sample(tops[b]!.scores, tops[b]!.ids)));
  }
  const rows = await scores.read();
  return texts.map((text, b) => (text.stopped ? 0 : text.sample(rows[b]!)));
}

/** Seconds, and the prompt tokens that came to their end in them: a signal may cut a prompt short. */
interface Times {
  prompts: number;
  prefill: number;
  decode: number;
}

async function runLane(
  text: TextSession,
  texts: readonly Text[],
  options: GenerateOptions,
  times: Times,
): Promise<void> {
  const { maxNewTokens = 128, capacity, signal, tokensPerRun } = options;
  const longest = Math.max(...texts.map(({ prompt }) => prompt.length));
  const started = performance.now();
  let decoding: Decoding | undefined;
  let firstAt: number | undefined;
  try {
    const prompts = texts.map(({ prompt }) => prompt);
    const start = await Decoding.start(text, prompts, {
      capacity: capacity ?? longest + maxNewTokens,
      signal,
      ...(tokensPerRun === undefined ? {} : { tokensPerRun }),
    });
    decoding = start.decoding;
    let { scores } = start;
    let active = [...texts];
    for (;;) {
      const ids = await chooseAll(active, scores, options);
      active.forEach((each, b) => {
        if (each.stopped) return;
        each.push(ids[b]!);
        if (!each.stopped && !decoding!.hasRoom(b)) each.stopped = 'context';
      });
      if (firstAt === undefined) {
        firstAt = performance.now();
        times.prompts += prompts.reduce((sum, { length }) => sum + length, 0);
      }
      const going = [...active.keys()].filter((b) => !active[b]!.stopped);
      if (signal?.aborted || going.length === 0) break;
      // Texts that have ended are carried along until half of the batch is of no use.
      if (2 * going.length <= active.length && decoding.keep(going)) active = going.map((b) => active[b]!);
      scores = await decoding.step(
        active.map(({ ids }) => ids.at(-1) ?? 0),
        { held: active.map(({ stopped }) => stopped !== undefined), signal },
      );
    }
  } catch (error) {
    // A run that the signal cut short is the end that was asked for.
    if (!signal?.aborted) throw error;
  } finally {
    decoding?.dispose();
    const now = performance.now();
    times.prefill += ((firstAt ?? now) - started) / 1000;
    times.decode += (now - (firstAt ?? now)) / 1000;
  }
}
