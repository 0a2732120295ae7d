/** Tensors where the model runs: in the memory of a device, or plain ones, for the same code. */
import type { Tensor } from 'onnxruntime-common';
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
