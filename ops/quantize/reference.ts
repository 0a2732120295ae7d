/** The oracle of every `Quantize` kernel. */
import { quantizeRows, type QuantizedRows, type RowFormat } from '../formats/segments.js';

/** Gathers and quantizes the rows of `x` [M, K] (widened to binary32 when the graph type is float16). */
export function quantize(x: Float32Array, K: number, attributes: RowFormat, reorderIndex?: Int32Array): QuantizedRows {
  return quantizeRows(x, K, attributes, reorderIndex);
}
