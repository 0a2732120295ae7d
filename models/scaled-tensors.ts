/** Collects factors per row and column of constants, then puts scaled constants in their place. */
import { inputError } from '../ops/common/errors.js';
import { toFloat16Bits } from '../ops/common/float16.js';
import { lazyTensor, readFloats, type Tensor, type Value } from '../graph-rewrite/ir/index.js';

export class ScaledTensors {
  readonly #factors = new Map<Value, readonly [Map<number, number>, Map<number, number>]>();

  /** Multiplies slices `indices` along `axis` of a vector or matrix by `factor`. */
  channels(value: Value, axis: 0 | 1, indices: readonly number[], factor: number): void {
    let factors = this.#factors.get(value);
    if (!factors) this.#factors.set(value, (factors = [new Map(), new Map()]));
    for (const index of indices) factors[axis].set(index, (factors[axis].get(index) ?? 1) * factor);
  }

  /** Replaces every constant; bytes are made when the model is saved. */
  apply(): void {
    for (const [value, factors] of this.#factors) {
      const tensor = value.constant();
      if (!tensor)
        throw inputError(value.name, 'is not constant, expected a constant to scale', 'Fold constants first.');
      if (value.uses.length > 1) {
        throw inputError(value.name, `is shared by ${value.uses.length} nodes, expected one`, 'Choose another model.');
      }
      const scaled = scale(tensor, value.name, factors);
      if (value.initializer) value.initializer = scaled;
      else value.graph.replaceAllUses(value, value.graph.addInitializer(`${value.name}_scaled`, scaled));
    }
  }
}

function scale(
  tensor: Tensor,
  name: string,
  [rows, columns]: readonly [Map<number, number>, Map<number, number>],
): Tensor {
  const { dtype, dims } = tensor;
  if (dtype !== 'float32' && dtype !== 'float16') {
    throw inputError(name, `is ${dtype}, expected float32 or float16`, 'Convert the model first.');
  }
  const width = dims.length > 1 ? dims[1]! : 1;
  return lazyTensor(dtype, dims, () => {
    const values = readFloats(tensor);
    for (const [row, factor] of rows) for (let i = row * width; i < (row + 1) * width; i++) values[i]! *= factor;
    for (const [column, factor] of columns) for (let i = column; i < values.length; i += width) values[i]! *= factor;
    const data = dtype === 'float32' ? values : Uint16Array.from(values, toFloat16Bits);
    return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  });
}
