/** The oracle of every `ActQuantize` kernel. */
import { activate, type Activation } from '../common/activations.js';
import { quantizeRows, type QuantizedRows, type RowFormat } from '../formats/segments.js';

/** Applies the activation to `x` [M, K] (binary32 or widened float16) and quantizes its rows. */
export function actQuantize(
  x: Float32Array,
  K: number,
  attributes: RowFormat & { readonly activation: Activation },
): QuantizedRows {
  const active = x.map((value) => activate(attributes.activation, value));
  return quantizeRows(active, K, attributes);
}
