// Where the weights of a built model come from, and the form they take in the graph. Nothing is read or made before it is written.
import { inputError } from '../ops/common/errors.js';
import { toFloat16Bits } from '../ops/common/float16.js';
import { elementCount, lazyTensor, readFloats, type Tensor } from '../graph-rewrite/ir/tensor.js';
import { openSafetensors } from './safetensors.js';

export type FloatType = 'float32' | 'float16';
type Elements = Float32Array | Uint16Array;

/** A named weight in its natural layout: [outputs, inputs] for linears, [tokens, hidden] for tables. */
export type WeightSource = (name: string, dims: readonly number[]) => Tensor;

/** Weights of a model folder in safetensors. Shapes are checked against what the graph wants. */
export function safetensorsSource(folder: string): WeightSource {
  const tensors = openSafetensors(folder);
  return (name, dims) => {
    const tensor = tensors.get(name);
    if (!tensor)
      throw inputError(folder, `has no weight "${name}"`, 'The config and the weights do not belong together.');
    if (tensor.dims.join() !== dims.join()) {
      throw inputError(
        `${folder}: weight "${name}"`,
        `has shape [${tensor.dims.join(',')}], expected [${dims.join(',')}]`,
      );
    }
    return tensor;
  };
}

/** Random weights that keep activations near 1: vectors are 1, matrices bell-shaped with deviation 1/sqrt(inputs). */
export function randomSource(seed: number): WeightSource {
  return (name, dims) =>
    lazyTensor('float32', dims, () => {
      const values = new Float32Array(dims.reduce((a, b) => a * b, 1));
      if (dims.length === 1) values.fill(1);
      else fillRandom(values, hash(`${seed}/${name}`), 1 / Math.sqrt(dims.at(-1)!));
      return new Uint8Array(values.buffer);
    });
}

/** A vector or table as it is, in another element type. */
export function plain(source: Tensor, type: FloatType): Tensor {
  return lazyTensor(type, source.dims, () => bytesOf(elements(source, type)));
}

/** Linears [N, K] side by side as the second input of one MatMul, [K, N of all]. */
export function transposed(sources: readonly Tensor[], type: FloatType): Tensor {
  const K = sources[0]!.dims[1]!;
  const N = sources.reduce((total, source) => total + source.dims[0]!, 0);
  return lazyTensor(type, [K, N], () => {
    const target = type === 'float32' ? new Float32Array(K * N) : new Uint16Array(K * N);
    let column = 0;
    for (const source of sources) {
      transposeInto(target, N, column, elements(source, type), K);
      column += source.dims[0]!;
    }
    return bytesOf(target);
  });
}

/** Copies `source` [rows, K], transposed, to columns `column` … of `target` [K, N]; in tiles that stay in the cache. */
function transposeInto(target: Elements, N: number, column: number, source: Elements, K: number): void {
  const tile = 32;
  const rows = source.length / K;
  for (let row0 = 0; row0 < rows; row0 += tile) {
    const rowEnd = Math.min(rows, row0 + tile);
    for (let k0 = 0; k0 < K; k0 += tile) {
      const kEnd = Math.min(K, k0 + tile);
      for (let k = k0; k < kEnd; k++) {
        for (let row = row0; row < rowEnd; row++) target[k * N + column + row] = source[row * K + k]!;
      }
    }
  }
}

function elements(source: Tensor, type: FloatType): Elements {
  if (type === 'float16' && source.dtype === 'float16') return new Uint16Array(new Uint8Array(source.bytes()).buffer);
  const floats = readFloats(source);
  if (type === 'float32') return floats;
  const halves = new Uint16Array(elementCount(source));
  for (let i = 0; i < halves.length; i++) halves[i] = toFloat16Bits(floats[i]!);
  return halves;
}

function bytesOf(data: Elements): Uint8Array {
  return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
}

/** The sum of four random bytes is close enough to normal, and one xorshift step gives four: 7 G weights take a minute. */
function fillRandom(values: Float32Array, seed: number, deviation: number): void {
  const scale = deviation / Math.sqrt((4 * (256 ** 2 - 1)) / 12);
  let state = seed | 1;
  for (let i = 0; i < values.length; i++) {
    state ^= state << 13;
    state ^= state >>> 17;
    state ^= state << 5;
    values[i] = ((state & 255) + ((state >>> 8) & 255) + ((state >>> 16) & 255) + (state >>> 24) - 510) * scale;
  }
}

/** FNV-1a. */
function hash(text: string): number {
  let value = 0x811c9dc5;
  for (const byte of Buffer.from(text)) value = Math.imul(value ^ byte, 0x01000193);
  return value;
}
