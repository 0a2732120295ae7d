import type { InferenceSession } from 'onnxruntime-common';
import type { ModelSession } from '../../native/js/lm/session.js';
import { LowbitError } from '../../ops/common/errors.js';

export type { Feeds, ModelIo, ModelSession } from '../../native/js/lm/session.js';

/** Opens a model from a file or from memory. Passed in, so that the rewriter does not depend on a native library. */
export type CreateSession = (
  model: string | Uint8Array,
  options?: InferenceSession.SessionOptions,
) => Promise<ModelSession>;

/** Progress of a stage: `done` of `total` units. */
export type OnProgress = (progress: { stage: string; done: number; total: number; detail?: string }) => void;

/** Ends the work when its signal was aborted. @throws error with code `interrupted` */
export function throwIfAborted(signal: AbortSignal | undefined, at: string): void {
  if (signal?.aborted) throw new LowbitError('interrupted', at, 'interrupted');
}
