/** Feeds of a float model, for its rewritten form with a quantized cache. */
import { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import type { Model } from '../ir/model.js';
import type { Feeds } from '../lm/session.js';
import { readCaches } from '../passes/cache-metadata.js';

/**
 * Turns feeds of the float model into feeds of the rewritten one: empty caches become empty quantized ones.
 * @throws input error for a cache that holds tokens: its codes would not be those of a text that was run in pieces
 */
export function quantizedFeeds(rewritten: Model): (feeds: Feeds) => Feeds {
  const entries = readCaches(rewritten);
  const inputs = new Map(rewritten.graph.inputs.map((value) => [value.name, value]));
  return (feeds) => {
    const changed = { ...feeds };
    for (const { past, past_param: parameters } of entries) {
      const given = feeds[past];
      const rowBytes = inputs.get(past)?.shape?.[3];
      if (!given || typeof rowBytes !== 'number') continue;
      if (given.size > 0)
        throw inputError(
          past,
          `is a recorded cache of ${given.dims[2]} tokens and the model's cache is quantized, expected an empty one`,
          'Record feeds that begin with an empty cache.',
        );
      const [batch = 1, heads = 1] = given.dims;
      changed[past] = new Tensor('uint8', new Uint8Array(0), [batch, heads, 0, rowBytes]);
      changed[parameters] = new Tensor('float16', new Uint16Array(0), [batch, heads, 0, 2]);
    }
    return changed;
  };
}
