/** The key and value cache of a batch between runs. Its contents never pass through JavaScript: outputs are inputs again. */
import { Tensor } from 'onnxruntime-common';
import { cacheDims, emptyPast, zeros } from './feeds.js';
import { fillsOutputs, free, onDevice } from './memory.js';
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
  /** Leaves only these sequences, ascending. @returns false, and does nothing, where its memory is not the host's */
  keep(sequences: readonly number[]): boolean;
  dispose(): void;
}

const namesOf = (model: TextModel): string[] => model.past.map(({ input }) => input.name);

/**
 * Moves the sequences that stay to the front of their tensors, in the same memory.
 * @param tensors [batch, kv heads, columns, …] on the host, by name; replaced
 */
function keepRows(tensors: Record<string, Tensor>, names: readonly string[], rows: readonly number[]): boolean {
  const movable = names.every((name) => tensors[name]!.location === 'cpu' && tensors[name]!.dims.length === 4);
  if (!movable) return false;
  for (const name of names) {
    const { type, dims, data, size } = tensors[name]!;
    const values = data as Uint8Array;
    const width = size / dims[0]!;
    rows.forEach((row, i) => values.copyWithin(i * width, row * width, (row + 1) * width));
    const kept = values.subarray(0, rows.length * width);
    tensors[name] = new Tensor(type as 'uint8', kept, [rows.length, ...dims.slice(1)]);
  }
  return true;
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
    keep: (sequences) => keepRows(feeds, namesOf(model), sequences),
    dispose,
  };
}

/**
 * A cache of `capacity` columns that runs read and write in place: each buffer is a past and its present at once. With a session that does not
 * fill given outputs it is copied in every run.
 */
export async function fixedCache(
  session: ModelSession,
  model: TextModel,
  batch: number,
  capacity: number,
): Promise<Cache> {
  const device = onDevice(session);
  const inPlace = fillsOutputs(session);
  const feeds: Feeds = {};
  const fetches: Record<string, Tensor | null> = {};
  for (const { input, output } of model.past) {
    const dims = cacheDims(model, input, batch, capacity);
    const buffer = device ? await device.toDevice({ type: input.type, dims }) : zeros(input, dims);
    feeds[input.name] = buffer;
    fetches[output] = inPlace ? buffer : null;
  }
  return {
    capacity,
    feeds,
    fetches,
    accept: (outputs) => {
      if (!inPlace) for (const { input, output } of model.past) feeds[input.name] = outputs[output] as Tensor;
    },
    keep: (sequences) => {
      if (!keepRows(feeds, namesOf(model), sequences)) return false;
      if (inPlace) for (const { input, output } of model.past) fetches[output] = feeds[input.name]!;
      return true;
    },
    dispose: () => free(model.past.map(({ input }) => feeds[input.name])),
  };
}
