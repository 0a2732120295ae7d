/** The key and value cache of a batch between runs. Its contents never pass through JavaScript: outputs are inputs again. */
import type { Tensor } from 'onnxruntime-common';
import { cacheDims, emptyPast, zeros } from './feeds.js';
import { free, onDevice } from './memory.js';
import type { Feeds, ModelSession } from './session.js';
import type { TextModel } from './text-model.js';

export interface Cache {
  /** Columns that it has room for; undefined: it grows. */
  readonly capacity: number | undefined;
  /** Tensors by input name. The same object in every run, to which the run's other inputs are added: a large model has hundreds. */
  readonly feeds: Feeds;
  /** By output name: the tensor to fill, null to make one. Likewise. */
  readonly fetches: Record<string, Tensor | null>;
  /** Takes over what a run made. */
  accept(outputs: Readonly<Record<string, unknown>>): void;
  dispose(): void;
}

/** A cache whose outputs are longer than its inputs by the new tokens. */
export function growingCache(model: TextModel, batch: number): Cache {
  const feeds = emptyPast(model, batch);
  const dispose = () => free(model.past.map(({ input }) => feeds[input.name]));
  return {
    capacity: undefined,
    feeds,
    fetches: Object.fromEntries(model.past.map(({ output }) => [output, null])),
    accept: (outputs) => {
      dispose();
      for (const { input, output } of model.past) feeds[input.name] = outputs[output] as Tensor;
    },
    dispose,
  };
}

/** A cache of `capacity` columns that runs read and write in place: each buffer is a past and its present at once. */
export async function fixedCache(
  session: ModelSession,
  model: TextModel,
  batch: number,
  capacity: number,
): Promise<Cache> {
  const device = onDevice(session);
  const feeds: Feeds = {};
  const fetches: Record<string, Tensor | null> = {};
  for (const { input, output } of model.past) {
    const dims = cacheDims(model, input, batch, capacity);
    const buffer = device ? await device.toDevice({ type: input.type, dims }) : zeros(input, dims);
    feeds[input.name] = buffer;
    fetches[output] = buffer;
  }
  return {
    capacity,
    feeds,
    fetches,
    accept: () => undefined,
    dispose: () => free(model.past.map(({ input }) => feeds[input.name])),
  };
}
