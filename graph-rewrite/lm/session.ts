import type { InferenceSession, Tensor } from 'onnxruntime-common';
import { LowbitError } from '../../ops/common/errors.js';

/** Tensors by input or output name. */
export type Feeds = Record<string, Tensor>;

/** Inputs and outputs of a model, as a session describes them. */
export interface ModelIo {
  readonly inputNames: readonly string[];
  readonly outputNames: readonly string[];
  readonly inputMetadata: readonly InferenceSession.ValueMetadata[];
  readonly outputMetadata: readonly InferenceSession.ValueMetadata[];
}

/** What this project needs of a session. This package's and onnxruntime-node's `InferenceSession` both have it. */
export interface ModelSession extends ModelIo {
  run(feeds: Feeds, fetches: readonly string[]): Promise<Readonly<Record<string, unknown>>>;
  release(): Promise<void>;
}

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
