/** The largest scores of a device tensor, without downloading the others: a model of one node on the same device. */
import type { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import { common } from './common.js';
import { floatsOf } from './lm/logits.js';
import type { FindTop, Top } from './lm/scores.js';
import { topModel } from './lm/top-model.js';
import { InferenceSession } from './session.js';
import type { SessionOptions } from './session-options.js';

export class TopOnDevice {
  readonly #options: SessionOptions;
  readonly #sessions = new Map<string, Promise<InferenceSession>>();

  /** @param options of the session that finds them; its device is where the scores are */
  constructor(options: SessionOptions) {
    this.#options = options;
  }

  /** See `FindTop`. */
  readonly find: FindTop = async (scores: Tensor, k: number): Promise<Top> => {
    const { type } = scores;
    if (type !== 'float32' && type !== 'float16') throw inputError('logits', `is ${type}, expected float32 or float16`);
    let session = this.#sessions.get(type);
    if (!session) this.#sessions.set(type, (session = InferenceSession.create(topModel(type), this.#options)));
    const count = new common.Tensor('int64', BigInt64Array.of(BigInt(k)), [1]);
    const { ids, largest } = await (await session).run({ scores, k: count });
    return { ids: Array.from(ids!.data as BigInt64Array, Number), scores: floatsOf(largest!, 'largest') };
  };

  async release(): Promise<void> {
    for (const session of this.#sessions.values()) await (await session).release();
    this.#sessions.clear();
  }
}
