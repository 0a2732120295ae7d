import type { Tensor } from 'onnxruntime-common';
import { fromFloat16Array } from '../../../ops/common/float16.js';
import { inputError } from '../../../ops/common/errors.js';

/** Scores of a run as rows of floats. */
export interface Logits {
  readonly rows: number;
  readonly vocabulary: number;
  readonly data: Float32Array;
}

/** Reads float32 or float16 logits [batch, tokens, vocabulary] as binary32 rows. */
export function readLogits(tensor: Tensor, at: string): Logits {
  const vocabulary = tensor.dims.at(-1) ?? 0;
  const data = floatsOf(tensor, at);
  return { rows: vocabulary === 0 ? 0 : data.length / vocabulary, vocabulary, data };
}

/** The values of a float tensor as binary32. */
export function floatsOf(tensor: Tensor, at: string): Float32Array {
  if (tensor.type === 'float32') return tensor.data as Float32Array;
  // Runtimes with a Float16Array may use it for the data; its bits are what is converted here.
  if (tensor.type === 'float16') {
    const { buffer, byteOffset, length } = tensor.data as Uint16Array;
    return fromFloat16Array(new Uint16Array(buffer, byteOffset, length));
  }
  throw inputError(at, `is ${tensor.type}, expected float32 or float16`);
}

/** Natural log of Σ exp(row), in double, without overflow. */
export function logSumExp(row: Float32Array): number {
  let largest = -Infinity;
  for (let i = 0; i < row.length; i++) if (row[i]! > largest) largest = row[i]!;
  if (!Number.isFinite(largest)) return NaN;
  let sum = 0;
  for (let i = 0; i < row.length; i++) sum += Math.exp(row[i]! - largest);
  return largest + Math.log(sum);
}
