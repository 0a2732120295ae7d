/**
 * `ort-lowbit`: onnxruntime-node's interface, with the low-bit operators known to every session.
 */
import type { Tensor as OrtTensor, TypedTensor } from 'onnxruntime-common';
import { common } from './common.js';

export { InferenceSession } from './session.js';
export { Generator, type GeneratorOptions } from './generator.js';
export type { Decoding, DecodingOptions } from './lm/decoding.js';
export type { TextFacts } from './lm/facts.js';
export type { GeneratedText, GenerateOptions, Generation, StopReason } from './lm/generate.js';
export type { SampleOptions } from './lm/sample.js';
export type { Scores } from './lm/scores.js';
export type { ModelSession } from './lm/session.js';
export type { RunOptions, SessionOptions } from './session-options.js';
export type { CpuProviderOptions, CudaProviderOptions } from './providers.js';
export { describeOps, forceKernel, nativeInfo } from './info.js';
export type { NativeInfo, OperatorLibraryDescription } from './info.js';

/** onnxruntime-common's Tensor, the very class that onnxruntime-node exports. */
export const Tensor = common.Tensor;
export type Tensor = OrtTensor;
// eslint-disable-next-line @typescript-eslint/no-namespace -- as in onnxruntime-common
export declare namespace Tensor {
  type Type = OrtTensor.Type;
  type DataType = OrtTensor.DataType;
  type DataTypeMap = OrtTensor.DataTypeMap;
  type ElementType = OrtTensor.ElementType;
  type DataLocation = OrtTensor.DataLocation;
}
/** onnxruntime-common's env; `logLevel` counts when the first session of the process is made. */
export const env = common.env;
export type { TypedTensor };
