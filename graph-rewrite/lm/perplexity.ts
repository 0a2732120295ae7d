import type { Tensor } from 'onnxruntime-common';
import type { TextFacts } from '../../native/js/lm/facts.js';
import { stepFeeds } from '../../native/js/lm/feeds.js';
import { checkIds } from '../../native/js/lm/ids.js';
import { logSumExp, readLogits } from '../../native/js/lm/logits.js';
import { describeTextModel } from '../../native/js/lm/text-model.js';
import type { ModelSession, OnProgress } from './session.js';
import { throwIfAborted } from './session.js';
import { cutWindows, windowLength } from './tokens.js';

export interface PerplexityOptions {
  /** Tokens a window. Default 512, or what the model's position table takes. */
  readonly length?: number;
  /** Windows at most. Default 100. */
  readonly windows?: number;
  /** See `textFacts`. */
  readonly facts?: TextFacts;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
  /** Name of the token source, for errors. */
  readonly at?: string;
}

export interface Perplexity {
  /** exp of the mean negative log likelihood. */
  readonly perplexity: number;
  /** Mean negative log likelihood, nats a token. */
  readonly nll: number;
  /** Predicted tokens. */
  readonly tokens: number;
  readonly windows: number;
  readonly seconds: number;
}

/**
 * Perplexity over windows that do not overlap: window k feeds ids[length·k … length·k + length − 1] from an empty cache and is scored
 * on predicting the id after each. Likelihoods are summed in double.
 */
export async function perplexity(
  session: ModelSession,
  ids: Int32Array,
  { length: wanted, windows: count = 100, facts, onProgress, signal, at = 'tokens' }: PerplexityOptions = {},
): Promise<Perplexity> {
  const model = describeTextModel(session, facts);
  const length = windowLength(model, wanted);
  const windows = cutWindows(ids, { length, count, extra: 1, at });
  const started = performance.now();
  let sum = 0;
  for (const [k, window] of windows.entries()) {
    throwIfAborted(signal, 'evaluation');
    checkIds(window, model.vocabulary, at);
    const outputs = await session.run(stepFeeds(model, window.subarray(0, length)), [model.logits]);
    sum += windowNll(outputs[model.logits] as Tensor, window, at);
    onProgress?.({ stage: 'evaluate', done: k + 1, total: windows.length });
  }
  const tokens = windows.length * length;
  const nll = sum / tokens;
  return {
    perplexity: Math.exp(nll),
    nll,
    tokens,
    windows: windows.length,
    seconds: (performance.now() - started) / 1000,
  };
}

/** Σ −log p(window[i + 1]) over the rows of `tensor`. */
function windowNll(tensor: Tensor, window: Int32Array, at: string): number {
  const { rows, vocabulary, data } = readLogits(tensor, 'logits');
  checkIds(window, vocabulary, at);
  let sum = 0;
  for (let row = 0; row < rows; row++) {
    const scores = data.subarray(row * vocabulary, (row + 1) * vocabulary);
    sum += logSumExp(scores) - scores[window[row + 1]!]!;
  }
  return sum;
}
