/**
 * Our sessions behind onnxruntime-common's backend interface, for programs that use onnxruntime-node (see register.cts).
 */
import type { Backend, InferenceSession as OrtSession, InferenceSessionHandler } from 'onnxruntime-common';
import { loadNative } from './load.js';
import { InferenceSession } from './session.js';
import type { SessionOptions } from './session-options.js';

async function createHandler(
  model: string | Uint8Array,
  options: OrtSession.SessionOptions = {},
): Promise<InferenceSessionHandler> {
  const session = await InferenceSession.create(model, options as SessionOptions);
  return {
    inputNames: session.inputNames,
    outputNames: session.outputNames,
    inputMetadata: session.inputMetadata,
    outputMetadata: session.outputMetadata,
    run: (feeds, fetches, runOptions) => session.run(feeds, fetches, runOptions),
    startProfiling: () => session.startProfiling(),
    endProfiling: () => void session.endProfiling(),
    dispose: () => session.release(),
  };
}

export const backend: Backend = {
  init: () => Promise.resolve(void loadNative()),
  createInferenceSessionHandler: createHandler,
};
