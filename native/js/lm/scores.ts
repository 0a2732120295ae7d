import type { Tensor } from 'onnxruntime-common';
import { floatsOf } from './logits.js';
import { argmax } from './sample.js';
import type { DeviceSession, ModelSession } from './session.js';

/**
 * Ids of the largest scores of a device tensor, found on the device.
 * @param logits [batch, tokens, vocabulary]
 * @returns [batch · tokens]
 */
export type PickLargest = (logits: Tensor) => Promise<ArrayLike<number | bigint>>;

/** The scores of what comes next, one row for each sequence, until the next step. They come to the host when they are asked for. */
export class Scores {
  readonly #session: ModelSession;
  readonly #logits: Tensor;
  readonly #rows: readonly number[];
  readonly #tokens: number;
  readonly #pick: PickLargest | undefined;

  /**
   * @param logits [batch, tokens, vocabulary]
   * @param rows for each sequence, the row of its tokens that is wanted; a function of how many there are
   */
  constructor(
    session: ModelSession,
    logits: Tensor,
    batch: number,
    rows: (tokens: number) => readonly number[],
    pick: PickLargest | undefined,
  ) {
    this.#session = session;
    this.#logits = logits;
    this.#tokens = logits.size / (batch * logits.dims.at(-1)!);
    this.#rows = rows(this.#tokens).map((row, b) => b * this.#tokens + row);
    this.#pick = pick;
  }

  /** Binary32 scores [vocabulary] of each sequence; of a tensor on a device, only these rows are downloaded. */
  async read(): Promise<Float32Array[]> {
    const vocabulary = this.#logits.dims.at(-1)!;
    const starts = this.#rows.map((row) => row * vocabulary);
    const device = this.#logits.location === 'gpu-buffer' ? (this.#session as DeviceSession) : undefined;
    if (device && this.#tokens > 1)
      return Promise.all(
        starts.map(async (start) => floatsOf(await device.fromDevice(this.#logits, start, vocabulary), 'logits')),
      );
    const all = floatsOf(device ? await device.fromDevice(this.#logits) : this.#logits, 'logits');
    return starts.map((start) => all.subarray(start, start + vocabulary));
  }

  /** The id with the largest score of each sequence; on a device only the ids are downloaded. */
  async largest(): Promise<number[]> {
    if (this.#logits.location !== 'gpu-buffer' || !this.#pick) return (await this.read()).map(argmax);
    const ids = await this.#pick(this.#logits);
    return this.#rows.map((row) => Number(ids[row]));
  }
}
