/** Feeds and fetches of a decoder, on the device: prompts from an empty cache, and steps of one token with the cache in place. */
import type { Tensor } from 'onnxruntime-common';
import type { InferenceSession } from '../../native/js/index.js';
import { Tensor as HostTensor } from '../../native/js/index.js';
import type { Placer } from './device.js';

export interface Run {
  readonly feeds: Record<string, Tensor>;
  /** null: ONNX Runtime allocates, and the caller disposes. */
  readonly fetches: Record<string, Tensor | null>;
  readonly batch: number;
  readonly tokens: number;
}

export interface RunShape {
  readonly batch: number;
  /** New tokens of each sequence. */
  readonly tokens: number;
  /** Tokens of each sequence before them. */
  readonly past: number;
  /** `in place`: past and present are one buffer with room for `past + tokens`. `growing`: present is new memory. */
  readonly cache: 'in place' | 'growing';
}

const cacheName = /^past_key_values\.(.*)$/;

/**
 * Tensors for runs of one shape, all of them on the device; a cache of earlier tokens holds whatever its memory held. When memory does not
 * suffice, what was taken goes back.
 */
export async function decoderRun(session: InferenceSession, placer: Placer, shape: RunShape): Promise<Run> {
  const run: Run = { feeds: {}, fetches: {}, batch: shape.batch, tokens: shape.tokens };
  try {
    await fill(run, session, placer, shape);
    return run;
  } catch (error) {
    disposeRun(run);
    throw error;
  }
}

async function fill(
  { feeds, fetches }: Run,
  session: InferenceSession,
  placer: Placer,
  shape: RunShape,
): Promise<void> {
  const { batch, tokens, past, cache } = shape;
  for (const input of session.inputMetadata) {
    if (!input.isTensor) continue;
    const slot = cacheName.exec(input.name)?.[1];
    if (slot === undefined) {
      feeds[input.name] = await placer.place(integers(input.name, shape));
      continue;
    }
    const room = cache === 'in place' ? past + tokens : past;
    const dims = input.shape.map((dim, axis) => (axis === 0 ? batch : axis === 2 ? room : Number(dim)));
    const tensor = await placer.allocate(input.type, dims);
    feeds[input.name] = tensor;
    fetches[`present.${slot}`] = cache === 'in place' ? tensor : null;
  }
  const logits = session.outputMetadata.find(({ name }) => name === 'logits');
  if (!logits?.isTensor) throw new Error('decoder: there is no output "logits".');
  const dims = [batch, tokens, Number(logits.shape.at(-1))];
  fetches['logits'] = cache === 'in place' ? await placer.allocate(logits.type, dims) : null;
}

function integers(name: string, { batch, tokens, past }: RunShape): Tensor {
  const make = (width: number, at: (row: number, i: number) => number) =>
    new HostTensor(
      'int64',
      BigInt64Array.from({ length: batch * width }, (_, i) => BigInt(at(Math.floor(i / width), i % width))),
      [batch, width],
    );
  if (name === 'input_ids') return make(tokens, (row, i) => (row * 31 + i * 37) % 997);
  if (name === 'attention_mask') return make(past + tokens, () => 1);
  if (name === 'position_ids') return make(tokens, (_, i) => past + i);
  throw new Error(
    `decoder: input "${name}" is not known, expected input_ids, attention_mask, position_ids or a cache.`,
  );
}

/** Gives the memory of a run back. */
export function disposeRun({ feeds, fetches }: Run): void {
  const tensors = new Set([...Object.values(feeds), ...Object.values(fetches)]);
  for (const tensor of tensors) if (tensor?.location === 'gpu-buffer') tensor.dispose();
}

/** Runs once; what ONNX Runtime allocated goes back at once. */
export async function runOnce(session: InferenceSession, run: Run, extra?: Record<string, string>): Promise<void> {
  const results = await session.run(run.feeds, run.fetches, extra ? { extra } : {});
  for (const [name, tensor] of Object.entries(results)) {
    if (run.fetches[name] === null && tensor.location === 'gpu-buffer') tensor.dispose();
  }
}
