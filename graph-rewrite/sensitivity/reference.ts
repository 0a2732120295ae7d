/** What the float model predicts on a few feeds: the measure that every group of layers is held against. */
import type { Tensor } from 'onnxruntime-common';
import { logSumExp, readLogits, type Logits } from '../../native/js/lm/logits.js';
import { describeTextModel } from '../../native/js/lm/text-model.js';
import { inputError } from '../../ops/common/errors.js';
import type { Model } from '../ir/model.js';
import { modelIo } from '../lm/facts.js';
import { openModel } from '../lm/open.js';
import type { CreateSession, Feeds, ModelSession } from '../lm/session.js';
import { throwIfAborted } from '../lm/session.js';
import { DistributionError } from '../verify/index.js';

/** Scores of the float model are kept up to this many bytes: 2048 tokens of a vocabulary of 32,768. */
const keptBytes = 256 * 2 ** 20;

/** Scores with the normalizer of each row. */
interface Predictions extends Logits {
  readonly logSums: Float64Array;
}

/**
 * The float model, opened once. Its scores are kept while they fit into {@link keptBytes}; feeds beyond that are run again each time.
 */
export class Reference {
  readonly #session: ModelSession;
  readonly #output: string;
  readonly #feeds: Iterable<Feeds>;
  readonly #kept: Predictions[] = [];
  #room = keptBytes;

  private constructor(session: ModelSession, output: string, feeds: Iterable<Feeds>) {
    this.#session = session;
    this.#output = output;
    this.#feeds = feeds;
  }

  /** @param feeds gone through once for every comparison */
  static async open(model: Model, feeds: Iterable<Feeds>, createSession: CreateSession): Promise<Reference> {
    const output = describeTextModel(modelIo(model)).logits;
    return new Reference(await openModel(model, createSession), output, feeds);
  }

  /**
   * Mean KL divergence of a model's predictions from the float model's, nats a token.
   * @param feedsOf turns feeds of the float model into the other's
   * @throws input error without feeds, `interrupted` when the signal aborts
   */
  async divergence(session: ModelSession, feedsOf: (feeds: Feeds) => Feeds, signal?: AbortSignal): Promise<number> {
    const error = new DistributionError();
    let index = 0;
    for (const feed of this.#feeds) {
      throwIfAborted(signal, 'sensitivity');
      const { rows, vocabulary, data, logSums } = this.#kept[index] ?? (await this.#predict(feed, index));
      const test = await scores(session, feedsOf(feed), this.#output);
      for (let row = 0; row < rows; row++) {
        const [start, end] = [row * vocabulary, (row + 1) * vocabulary];
        error.add(data.subarray(start, end), test.data.subarray(start, end), logSums[row]);
      }
      index++;
    }
    if (error.rows === 0) throw inputError('budget', 'there are no samples to measure on, expected at least one');
    return error.klDivergence;
  }

  async #predict(feed: Feeds, index: number): Promise<Predictions> {
    const { rows, vocabulary, data } = await scores(this.#session, feed, this.#output);
    const logSums = Float64Array.from({ length: rows }, (_, row) =>
      logSumExp(data.subarray(row * vocabulary, (row + 1) * vocabulary)),
    );
    const predictions = { rows, vocabulary, data, logSums };
    this.#room -= data.byteLength;
    if (this.#room >= 0) this.#kept[index] = predictions;
    return predictions;
  }

  /** Closes the float model. */
  async release(): Promise<void> {
    await this.#session.release();
  }
}

async function scores(session: ModelSession, feed: Feeds, output: string): Promise<Logits> {
  const outputs = await session.run(feed, [output]);
  return readLogits(outputs[output] as Tensor, output);
}
