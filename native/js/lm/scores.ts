import type { Tensor } from 'onnxruntime-common';
import { floatsOf } from './logits.js';
import { argmax, largest } from './sample.js';
import type { DeviceSession, ModelSession } from './session.js';

/** The largest scores of rows, the largest first, row after row. */
export interface Top {
  readonly ids: ArrayLike<number>;
  readonly scores: Float32Array;
}

/**
 * Finds the k largest scores in each row of a device tensor on the device; the lower id of equal ones first.
 * @param logits [batch, tokens, vocabulary]
 * @returns k for each of batch · tokens rows
 */
export type FindTop = (logits: Tensor, k: number) => Promise<Top>;

/** The scores of what comes next, one row for each sequence, until the next step. They come to the host when they are asked for. */
export class Scores {
  readonly #session: ModelSession;
  readonly #logits: Tensor;
  readonly #rows: readonly number[];
  readonly #tokens: number;
  readonly #findTop: FindTop | undefined;

  /**
   * @param logits [batch, tokens, vocabulary]
   * @param rows for each sequence, the row of its tokens that is wanted; a function of how many there are
   */
  constructor(
    session: ModelSession,
    logits: Tensor,
    batch: number,
    rows: (tokens: number) => readonly number[],
    findTop?: FindTop,
  ) {
    this.#session = session;
    this.#logits = logits;
    this.#tokens = logits.size / (batch * logits.dims.at(-1)!);
    this.#rows = rows(this.#tokens).map((row, b) => b * this.#tokens + row);
    this.#findTop = findTop;
  }

  /** Entries of the vocabulary. */
  get vocabulary(): number {
    return this.#logits.dims.at(-1)!;
  }

  /** Binary32 scores [vocabulary] of each sequence; of a tensor on a device, only these rows are downloaded. */
  async read(): Promise<Float32Array[]> {
    const { vocabulary } = this;
    const starts = this.#rows.map((row) => row * vocabulary);
    const device = this.#logits.location === 'gpu-buffer' ? (this.#session as DeviceSession) : undefined;
    if (device && this.#tokens > 1)
      return Promise.all(
        starts.map(async (start) => floatsOf(await device.fromDevice(this.#logits, start, vocabulary), 'logits')),
      );
    const all = floatsOf(device ? await device.fromDevice(this.#logits) : this.#logits, 'logits');
    return starts.map((start) => all.subarray(start, start + vocabulary));
  }

  /** The k largest scores of each sequence, the largest first; on a device only these are downloaded. */
  async top(k: number): Promise<Top[]> {
    const count = Math.min(k, this.vocabulary);
    if (this.#logits.location !== 'gpu-buffer' || !this.#findTop) {
      return (await this.read()).map((row) => {
        const ids = count === 1 ? [argmax(row)] : largest(row, count);
        return { ids, scores: Float32Array.from(ids, (id) => row[id]!) };
      });
    }
    const { ids, scores } = await this.#findTop(this.#logits, count);
    return this.#rows.map((row) => ({
      ids: Array.from({ length: count }, (_, i) => ids[row * count + i]!),
      scores: scores.subarray(row * count, (row + 1) * count),
    }));
  }

  /** The id with the largest score of each sequence. */
  async largest(): Promise<number[]> {
    return (await this.top(1)).map(({ ids }) => ids[0]!);
  }
}
