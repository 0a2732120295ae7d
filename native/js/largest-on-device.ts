/** The ids of the largest scores of a device tensor, without downloading the scores: a model of one node on the same device. */
import type { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import { argmaxModel } from './lm/argmax-model.js';
import { InferenceSession } from './session.js';
import type { SessionOptions } from './session-options.js';

export class LargestOnDevice {
  readonly #options: SessionOptions;
  readonly #sessions = new Map<string, Promise<InferenceSession>>();

  /** @param options of the session that finds them; its device is where the scores are */
  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /**
   * @param scores [batch, tokens, vocabulary], float32 or float16
   * @returns ids [batch · tokens]; the first of equal ones
   */
  async pick(scores: Tensor): Promise<BigInt64Array> {
    const { type } = scores;
    if (type !== 'float32' && type !== 'float16') throw inputError('logits', `is ${type}, expected float32 or float16`);
    let session = this.#sessions.get(type);
    if (!session) this.#sessions.set(type, (session = InferenceSession.create(argmaxModel(type), this.#options)));
    const { ids } = await (await session).run({ scores });
    return ids!.data as BigInt64Array;
  }

  async release(): Promise<void> {
    for (const session of this.#sessions.values()) await (await session).release();
    this.#sessions.clear();
  }
}
