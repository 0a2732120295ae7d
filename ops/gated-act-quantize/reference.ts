/** The oracle of every `GatedActQuantize` kernel. */
import { activate, type Activation } from '../common/activations.js';
import { quantizeRows, type QuantizedRows, type RowFormat } from '../formats/segments.js';

/**
 * act(gate) · up, quantized, over rows of I channels.
 * @param gate [M, I], or [M, 2·I] holding [gate | up] in each row when `up` is absent; binary32 or widened float16
 * @param up [M, I]
 */
export function gatedActQuantize(
  gate: Float32Array,
  up: Float32Array | undefined,
  I: number,
  attributes: RowFormat & { readonly activation: Activation },
): QuantizedRows {
  const gateStride = up ? I : 2 * I;
  const M = gate.length / gateStride;
  const product = new Float32Array(M * I);
  for (let m = 0; m < M; m++) {
    for (let i = 0; i < I; i++) {
      const factor = up ? up[m * I + i]! : gate[m * gateStride + I + i]!;
      product[m * I + i] = activate(attributes.activation, gate[m * gateStride + i]!) * factor;
    }
  }
  return quantizeRows(product, I, attributes);
}
