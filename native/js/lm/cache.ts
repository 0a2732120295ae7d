/** The key and value cache of a batch between runs. Its contents never pass through JavaScript: outputs are inputs again. */
import type { Tensor } from 'onnxruntime-common';
import { cacheDims, emptyPast, nextPast, zeros } from './feeds.js';
import { free, onDevice } from './memory.js';
import type { Feeds, ModelSession } from './session.js';
import type { TextModel } from './text-model.js';

export interface Cache {
  /** Columns that it has room for; undefined: it grows. */
  readonly capacity: number | undefined;
  /** By input name. */
  feeds(): Feeds;
  /** By output name: the tensor to fill, null to make one. */
  fetches(): Record<string, Tensor | null>;
  /** Takes over what a run made. */
  accept(outputs: Readonly<Record<string, unknown>>): void;
  dispose(): void;
}

/** A cache whose outputs are longer than its inputs by the new tokens. */
export function growingCache(model: TextModel, batch: number): Cache {
  let past = emptyPast(model, batch);
  const fetches = Object.fromEntries(model.past.map(({ output }) => [output, null]));
  return {
    capacity: undefined,
    feeds: () => past,
    fetches: () => fetches,
    accept: (outputs) => {
      free(Object.values(past));
      past = nextPast(model, outputs);
    },
    dispose: () => free(Object.values(past)),
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
  const past: Feeds = {};
  const present: Record<string, Tensor> = {};
  for (const { input, output } of model.past) {
    const dims = cacheDims(model, input, batch, capacity);
    const buffer = device ? await device.toDevice({ type: input.type, dims }) : zeros(input, dims);
    past[input.name] = buffer;
    present[output] = buffer;
  }
  return {
    capacity,
    feeds: () => past,
    fetches: () => present,
    accept: () => undefined,
    dispose: () => free(Object.values(past)),
  };
}
