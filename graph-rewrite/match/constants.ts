/** Constants as patterns read them: through the nodes that exporters put around a number. */
import { elementCount, readFloats, readInts, type Tensor, type Value } from '../ir/index.js';

const transparent = new Set(['Cast', 'Identity', 'Unsqueeze', 'Squeeze', 'Reshape']);
const integerTypes = new Set(['int64', 'int32', 'int16', 'int8', 'uint64', 'uint32', 'uint16', 'uint8', 'bool']);

/** The constant tensor behind a value, through casts and reshapes (whose effect on type and shape is ignored). */
function constantBehind(value: Value | undefined): Tensor | undefined {
  for (let at = value, hops = 0; at && hops < 8; hops++) {
    const tensor = at.constant();
    if (tensor) return tensor;
    const node = at.producer;
    at = node && node.domain === '' && transparent.has(node.opType) ? node.input(0) : undefined;
  }
  return undefined;
}

/** The number that a one-element constant holds. */
export function scalarOf(value: Value | undefined): number | undefined {
  const tensor = constantBehind(value);
  if (!tensor || elementCount(tensor) !== 1) return undefined;
  return integerTypes.has(tensor.dtype) ? integers(tensor)[0] : readFloats(tensor)[0];
}

/** The integers of a small constant (axes, shapes, permutations). */
export function integersOf(value: Value | undefined): number[] | undefined {
  const tensor = constantBehind(value);
  return tensor && integerTypes.has(tensor.dtype) && elementCount(tensor) <= 64 ? integers(tensor) : undefined;
}

/** Like readInts, but "to the end" bounds of Slice (2⁶³ − 1) become infinite instead of an error. */
function integers(tensor: Tensor): number[] {
  if (tensor.dtype !== 'int64') return readInts(tensor);
  const bytes = new Uint8Array(tensor.bytes());
  return Array.from(new BigInt64Array(bytes.buffer), (value) => {
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : Math.sign(number) * Infinity;
  });
}
