import type { Tensor } from 'onnxruntime-common';
import { inputError, usageError } from '../../ops/common/errors.js';
import { describeTextModel, nextPast, stepFeeds } from './decoder.js';
import type { TextModel } from './decoder.js';
import type { TextFacts } from './facts.js';
import { readLogits } from './logits.js';
import { createSampler } from './sample.js';
import type { SampleOptions } from './sample.js';
import type { Feeds, ModelSession } from './session.js';
import { checkIds } from './tokens.js';

export interface GenerateOptions extends SampleOptions {
  readonly maxTokens?: number;
  /** Ids that end the text; they are not given out. */
  readonly stopIds?: readonly number[];
  /** See `textFacts`. */
  readonly facts?: TextFacts;
  /** Ends the loop early, without an error: the tokens so far are the result. */
  readonly signal?: AbortSignal | undefined;
  /** Called with each token as soon as it is chosen. */
  readonly onToken?: (id: number) => void;
}

export interface Generation {
  readonly ids: number[];
  readonly stopped: 'stop-token' | 'length' | 'aborted';
  readonly promptTokens: number;
  /** Time to the first token. */
  readonly prefillSeconds: number;
  /** Time of the steps after it. */
  readonly decodeSeconds: number;
}

/**
 * Continues a prompt, batch 1: the prompt in one run, then one token a run with a growing cache. A model without a cache is given the
 * whole text again each time.
 */
export async function generate(
  session: ModelSession,
  prompt: readonly number[],
  { maxTokens = 128, stopIds = [], facts, signal, onToken, ...sampling }: GenerateOptions = {},
): Promise<Generation> {
  if (!Number.isInteger(maxTokens) || maxTokens < 1)
    throw usageError('maxTokens', `is ${maxTokens}, expected at least 1`);
  if (prompt.length === 0) throw inputError('prompt', 'has no tokens, expected at least one');
  const model = describeTextModel(session, facts);
  checkIds(prompt, model.vocabulary, 'prompt');
  const sample = createSampler(sampling);
  const ids: number[] = [];
  const started = performance.now();
  let firstAt = started;
  let stopped: Generation['stopped'] = 'length';
  let state: StepState = { seen: 0, past: undefined };
  while (ids.length < maxTokens) {
    if (signal?.aborted) {
      stopped = 'aborted';
      break;
    }
    const step = await runStep(session, model, [...prompt, ...ids], state);
    state = step.state;
    const id = sample(step.scores);
    if (ids.length === 0) firstAt = performance.now();
    if (stopIds.includes(id)) {
      stopped = 'stop-token';
      break;
    }
    ids.push(id);
    onToken?.(id);
  }
  const seconds = (from: number, to: number) => (to - from) / 1000;
  return {
    ids,
    stopped,
    promptTokens: prompt.length,
    prefillSeconds: seconds(started, firstAt),
    decodeSeconds: seconds(firstAt, performance.now()),
  };
}

interface StepState {
  /** Tokens that the cache holds. */
  readonly seen: number;
  readonly past: Feeds | undefined;
}

async function runStep(
  session: ModelSession,
  model: TextModel,
  text: readonly number[],
  { seen, past }: StepState,
): Promise<{ scores: Float32Array; state: StepState }> {
  const feeds = stepFeeds(model, text.slice(seen), seen, past);
  const fetches = [model.logits, ...model.past.map(({ output }) => output)];
  const outputs = await session.run(feeds, fetches);
  const { rows, vocabulary, data } = readLogits(outputs[model.logits] as Tensor, model.logits);
  const scores = data.subarray((rows - 1) * vocabulary, rows * vocabulary);
  if (model.past.length === 0) return { scores, state: { seen: 0, past: undefined } };
  return { scores, state: { seen: text.length, past: nextPast(model, outputs) } };
}
