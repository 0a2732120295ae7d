/**
 * `ort-lowbit`: onnxruntime-node's interface, with the low-bit operators known to every session.
 */
import type { Tensor as OrtTensor } from 'onnxruntime-common';
import { common } from './common.js';

export { InferenceSession } from './session.js';
export type { RunOptions, SessionOptions } from './session-options.js';
export type { CpuProviderOptions, CudaProviderOptions } from './providers.js';
export { describeOps, forceKernel, nativeInfo } from './info.js';
export type { NativeInfo, OperatorLibraryDescription } from './info.js';

/** onnxruntime-common's Tensor, the very class that onnxruntime-node exports. */
export const Tensor = common.Tensor;
export type Tensor = OrtTensor;
/** onnxruntime-common's env; `logLevel` counts when the first session of the process is made. */
export const env = common.env;
