/** Tensors where the model runs: in the memory of a device, or plain ones, for the same code. */
import type { Tensor } from 'onnxruntime-common';
import type { DeviceSession, ModelSession } from './session.js';

/** The session as one with a device; undefined if its tensors are the host's. */
export function onDevice(session: ModelSession): DeviceSession | undefined {
  const candidate = session as DeviceSession;
  return candidate.device === 'cuda' ? candidate : undefined;
}

/**
 * Whether runs fill tensors that they are given for outputs. Sessions of this package do; onnxruntime-node's pass over those that are not of
 * its own class.
 */
export function fillsOutputs(session: ModelSession): boolean {
  return 'fromDevice' in session;
}

/** Gives device memory back at once; the host's is left to garbage collection. */
export function free(tensors: Iterable<Tensor | undefined>): void {
  for (const tensor of tensors) if (tensor?.location === 'gpu-buffer') tensor.dispose();
}
