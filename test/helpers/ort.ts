import { InferenceSession } from 'onnxruntime-node';
import type { CreateSession } from '../../graph-rewrite/lm/session.js';

/** Sessions of plain onnxruntime-node on one thread: for float models in tests that do without our native library. */
export const createOrtSession: CreateSession = (model, options = {}) => {
  const all = { intraOpNumThreads: 1, logSeverityLevel: 3 as const, ...options };
  return typeof model === 'string' ? InferenceSession.create(model, all) : InferenceSession.create(model, all);
};
