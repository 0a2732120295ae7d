/** The oracle of every `NormQuantize` kernel. */
import { roundToFloat16 } from '../common/float16.js';
import { quantizeRows, type QuantizedRows, type RowFormat } from '../formats/segments.js';
import { normalizeRow, type NormAttributes } from './norm.js';

export interface NormQuantizeInputs {
  /** [M, K], widened to binary32 when the graph type is float16. */
  readonly x: Float32Array;
  readonly weight: Float32Array;
  readonly bias?: Float32Array | undefined;
  readonly reorderIndex?: Int32Array | undefined;
  readonly residual?: Float32Array | undefined;
  readonly graphType: 'float32' | 'float16';
}

export interface NormQuantizeOutputs extends QuantizedRows {
  /** x + residual, rounded to the graph type; x itself without a residual. */
  readonly sum: Float32Array;
  /** The norm's output in natural channel order, rounded to the graph type. */
  readonly y: Float32Array;
}

/** Residual add, norm, gather and quantization of M rows of `weight.length` channels. */
export function normQuantize(inputs: NormQuantizeInputs, attributes: NormAttributes & RowFormat): NormQuantizeOutputs {
  const { x, weight, bias, reorderIndex, residual, graphType } = inputs;
  const K = weight.length;
  const toGraphType = (values: Float32Array): Float32Array =>
    graphType === 'float16' ? values.map(roundToFloat16) : values;
  const sum = residual ? toGraphType(x.map((value, i) => value + residual[i]!)) : x;
  const normed = new Float32Array(x.length);
  for (let start = 0; start < x.length; start += K) {
    normed.set(normalizeRow(sum.subarray(start, start + K), weight, bias, attributes), start);
  }
  return { ...quantizeRows(normed, K, attributes, reorderIndex), sum, y: toGraphType(normed) };
}
