/**
 * The onnxruntime-common that onnxruntime-node uses. Its ESM and CommonJS builds are two modules with two Tensor classes
 * and two backend tables; taking the CommonJS one makes our tensors and onnxruntime-node's the same class.
 */
import { createRequire } from 'node:module';
import type * as OrtCommon from 'onnxruntime-common';

const ours = createRequire(import.meta.url);

/** Absolute path of onnxruntime-node's package.json; throws Node's own error when it is not installed. */
export const runtimePackage: string = ours.resolve('onnxruntime-node/package.json');

export const common = createRequire(runtimePackage)('onnxruntime-common') as typeof OrtCommon;
