/** Small constants that passes make: biases, norm weights, orders. */
import { toBfloat16Array, toFloat16Array } from '../../ops/common/float16.js';
import { inlineTensor, lazyTensor, readFloats, tensorOf, type Tensor } from '../ir/index.js';
import type { GraphType } from './context.js';

/** Floats as a vector of the graph's type, computed when it is written. */
export function vector(type: GraphType, length: number, values: () => Float32Array): Tensor {
  return lazyTensor(type, [length], () => bytesOf(type, values()));
}

/** Floats as the graph's type lies in memory. */
function bytesOf(type: GraphType, floats: Float32Array): Uint8Array {
  if (type === 'float32') return new Uint8Array(floats.buffer, floats.byteOffset, floats.byteLength);
  return new Uint8Array((type === 'float16' ? toFloat16Array(floats) : toBfloat16Array(floats)).buffer);
}

/** The bias of one or several layers, one after the other, smoothed, each in the order of its rows; absent ones are zeros. */
export function joinBiases(
  type: GraphType,
  parts: readonly {
    bias: Tensor | undefined;
    N: number;
    rowOrder: Int32Array | undefined;
    rowSmooth: Float32Array | undefined;
  }[],
): Tensor {
  const total = parts.reduce((sum, { N }) => sum + N, 0);
  return vector(type, total, () => {
    const result = new Float32Array(total);
    let start = 0;
    for (const { bias, N, rowOrder, rowSmooth } of parts) {
      const values = bias ? readFloats(bias) : undefined;
      for (let n = 0; n < N && values; n++) {
        const row = rowOrder ? rowOrder[n]! : n;
        result[start + n] = values[row]! / (rowSmooth ? rowSmooth[row]! : 1);
      }
      start += N;
    }
    return result;
  });
}

/** No bias: an empty vector that tells the operator its float type. */
const empty: Record<GraphType, Tensor> = {
  float32: inlineTensor('float32', [0], new Uint8Array()),
  float16: inlineTensor('float16', [0], new Uint8Array()),
  bfloat16: inlineTensor('bfloat16', [0], new Uint8Array()),
};
export const noBias = (type: GraphType): Tensor => empty[type];

/** One number. */
export function number(type: GraphType, value: number): Tensor {
  return inlineTensor(type, [], bytesOf(type, Float32Array.of(value)));
}

export const orderTensor = (order: Int32Array): Tensor => tensorOf(order);
