/** Where the weight of a linear layer comes from. */
import { lazyTensor, type Tensor, type Value, elementCount, readFloats } from '../ir/index.js';

/** A matrix of constant floats, or why there is none. */
export type WeightSource =
  | { readonly ok: true; readonly tensor: Tensor; readonly owner: Value; readonly transposed: boolean }
  | { readonly ok: false; readonly reason: string };

const floats = new Set(['float32', 'float16', 'bfloat16', 'float64']);

/** Follows Identity, Cast and Transpose down to the tensor. */
export function weightSource(value: Value | undefined): WeightSource {
  let transposed = false;
  for (let at = value, hops = 0; at && hops < 8; hops++) {
    const tensor = at.constant();
    if (tensor) {
      const owner = ownerOf(at);
      // Before IR version 4 every initializer is an input; taking one away would change what callers see.
      if (owner.isGraphInput)
        return no(
          `weight "${owner.name}" is listed as a graph input, expected an initializer alone (IR version 4 or newer)`,
        );
      if (!floats.has(tensor.dtype)) return no(`weight "${owner.name}" is ${tensor.dtype}, expected a float type`);
      if (tensor.dims.length !== 2)
        return no(`weight "${owner.name}" has ${tensor.dims.length} dimensions [${tensor.dims.join(',')}], expected 2`);
      return { ok: true, tensor, owner, transposed };
    }
    const node = at.producer;
    if (!node) {
      const overridable = at.initializer ? ', whose value callers may replace' : '';
      return no(`weight is not constant ("${at.name}" is a graph input${overridable})`);
    }
    if (node.is('Transpose')) {
      const perm = node.attributes.get('perm');
      if (perm?.type === 'ints' && perm.value.length !== 2)
        return no(`weight comes from Transpose "${node.name}" of ${perm.value.length} axes, expected 2`);
      if (!perm || (perm.type === 'ints' && Number(perm.value[0]) === 1)) transposed = !transposed;
    } else if (!node.is('Identity') && !node.is('Cast')) {
      return no(`weight is not constant (comes from ${node.opType} "${node.name}")`);
    }
    at = node.input(0);
  }
  return no('weight is absent');
}

const no = (reason: string): WeightSource => ({ ok: false, reason });

/** The value whose initializer or Constant node holds the bytes. */
function ownerOf(value: Value): Value {
  let at = value;
  while (at.producer?.is('Identity')) at = at.producer.input(0)!;
  return at;
}

/**
 * Whether a value follows from constants alone (and not from anything a caller feeds).
 * @param seen answers so far, shared by the calls on one graph
 */
export function isConstantExpression(value: Value | undefined, seen: Map<Value, boolean>): boolean {
  if (!value) return true;
  // Depth first with a stack of our own: decoders are thousands of nodes deep.
  const stack = [value];
  while (stack.length > 0) {
    const at = stack.at(-1)!;
    const inputs = at.producer?.inputs.filter((input) => input !== undefined) ?? [];
    const varies =
      at.constant() === undefined && (at.producer === undefined || inputs.some((input) => seen.get(input) === false));
    const open = varies || at.constant() ? undefined : inputs.find((input) => !seen.has(input));
    if (open) {
      stack.push(open);
    } else {
      seen.set(at, !varies);
      stack.pop();
    }
  }
  return seen.get(value)!;
}

/** The tensor times a number (Gemm's alpha and beta), read when asked for. */
export function scaled(tensor: Tensor, factor: number): Tensor {
  if (factor === 1) return tensor;
  return lazyTensor('float32', tensor.dims, () => {
    const values = readFloats(tensor).map((value) => value * factor);
    return new Uint8Array(values.buffer, values.byteOffset, values.byteLength);
  });
}

/** The constant as a bias of N channels: `[N]`, `[1, …, N]` or one number for all; undefined if it is anything else. */
export function asBias(value: Value | undefined, N: number): Tensor | undefined {
  let at = value;
  while (at && !at.constant() && at.producer?.is('Cast')) at = at.producer.input(0);
  const tensor = at?.constant();
  if (!tensor || !floats.has(tensor.dtype)) return undefined;
  const count = elementCount(tensor);
  if (count === N && (tensor.dims.at(-1) ?? 1) === N) return tensor;
  if (count !== 1) return undefined;
  return lazyTensor('float32', [N], () => {
    const values = new Float32Array(N).fill(readFloats(tensor)[0]!);
    return new Uint8Array(values.buffer);
  });
}
