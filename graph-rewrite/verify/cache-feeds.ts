/** Feeds of a float model, for its rewritten form with a quantized cache. */
import { Tensor } from 'onnxruntime-common';
import { inputError } from '../../ops/common/errors.js';
import type { Model } from '../ir/model.js';
import type { Feeds } from '../lm/session.js';
import { readCaches } from '../passes/cache-metadata.js';

/**
 * Turns feeds of the float model into feeds of the rewritten one: empty caches become empty quantized ones, with room for the tokens of the run
 * if they stay in place.
 * @throws input error for a cache that holds tokens: its codes would not be those of a text that was run in pieces
 */
export function quantizedFeeds(rewritten: Model): (feeds: Feeds) => Feeds {
  const entries = readCaches(rewritten);
  const inputs = new Map(rewritten.graph.inputs.map((value) => [value.name, value]));
  return (feeds) => {
    const changed = { ...feeds };
    const room = Math.max(0, ...Object.values(feeds).map(({ dims }) => (dims.length === 2 ? dims[1]! : 0)));
    for (const { past, past_param: parameters, form } of entries) {
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
      const rows = form === 'in_place' ? room : 0;
      const all = batch * heads * rows;
      changed[past] = new Tensor('uint8', new Uint8Array(all * rowBytes), [batch, heads, rows, rowBytes]);
      changed[parameters] = new Tensor('float16', new Uint16Array(all * 2), [batch, heads, rows, 2]);
    }
    return changed;
  };
}
