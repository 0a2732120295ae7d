/** Tensors where the model runs: in the memory of a device, or plain ones, for the same code. */
import type { Tensor } from 'onnxruntime-common';
import { floatsOf } from './logits.js';
import type { DeviceSession, ModelSession } from './session.js';

/** The session as one with a device; undefined if its tensors are the host's. */
export function onDevice(session: ModelSession): DeviceSession | undefined {
  const candidate = session as DeviceSession;
  return candidate.device === 'cuda' ? candidate : undefined;
}

/** Gives device memory back at once; the host's is left to garbage collection. */
export function free(tensors: Iterable<Tensor | undefined>): void {
  for (const tensor of tensors) if (tensor?.location === 'gpu-buffer') tensor.dispose();
}

/**
 * One row of scores for each sequence as binary32; of a tensor on a device, only these rows come to the host.
 * @param logits [batch, tokens, vocabulary]
 * @param rows for each sequence, the row of its tokens that is wanted; a function of how many there are
 */
export async function readRows(
  session: ModelSession,
  logits: Tensor,
  batch: number,
  rows: (tokens: number) => readonly number[],
): Promise<Float32Array[]> {
  const vocabulary = logits.dims.at(-1)!;
  const tokens = logits.size / (batch * vocabulary);
  const starts = rows(tokens).map((row, b) => (b * tokens + row) * vocabulary);
  const device = logits.location === 'gpu-buffer' ? (session as DeviceSession) : undefined;
  if (device && tokens > 1)
    return Promise.all(
      starts.map(async (start) => floatsOf(await device.fromDevice(logits, start, vocabulary), 'logits')),
    );
  const all = floatsOf(device ? await device.fromDevice(logits) : logits, 'logits');
  return starts.map((start) => all.subarray(start, start + vocabulary));
}
