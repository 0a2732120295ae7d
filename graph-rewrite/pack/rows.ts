/** Weight rows from a tensor in either layout, a slab at a time. */
import { internalError } from '../../ops/common/errors.js';
import { readFloats, type Tensor } from '../ir/tensor.js';

/** A float weight: `NK` stores output channels as rows, `KN` as columns (ONNX MatMul). */
export interface WeightSource {
  readonly weight: Tensor;
  readonly layout: 'KN' | 'NK';
  /** Output row i is row rowOrder[i] of the weight; may also select fewer rows. */
  readonly rowOrder?: Int32Array;
  /** What smoothing makes of the weight; see {@link Smoothed}. */
  readonly smooth?: Smoothed;
}

/** Factors that smoothing folds into a weight, positive, in natural order. */
export interface Smoothed {
  /** Of the input channels, which arrive divided by them: column k is multiplied by columns[k]. */
  readonly columns?: Float32Array | undefined;
  /** Of the output channels, which are to leave divided by them: row n is divided by rows[n]. */
  readonly rows?: Float32Array | undefined;
}

/** Floats read at once. */
const slabElements = 1 << 20;

/** Rows and columns [N, K] of a source, after its row order. */
export function sizeOf({ weight, layout, rowOrder }: WeightSource): { N: number; K: number } {
  const [first, second] = weight.dims;
  if (weight.dims.length !== 2 || first === undefined || second === undefined) {
    throw internalError('pack', `a weight has ${weight.dims.length} dimensions, expected 2`);
  }
  const [N, K] = layout === 'NK' ? [first, second] : [second, first];
  return { N: rowOrder?.length ?? N, K };
}

/** A function that gives row n in natural column order, smoothed; the view it returns holds until the next call. */
export function rowReader(source: WeightSource): (n: number) => Float32Array {
  const read = plainReader(source);
  const { rowOrder, smooth: { columns, rows } = {} } = source;
  if (!columns && !rows) return read;
  const out = new Float32Array(sizeOf(source).K);
  return (n) => {
    const row = read(n);
    const inverse = rows ? 1 / rows[rowOrder ? rowOrder[n]! : n]! : 1;
    for (let k = 0; k < out.length; k++) out[k] = row[k]! * (columns ? columns[k]! * inverse : inverse);
    return out;
  };
}

function plainReader(source: WeightSource): (n: number) => Float32Array {
  const { weight, layout, rowOrder } = source;
  const { K } = sizeOf(source);
  const rows = layout === 'KN' ? transposed(weight) : weight.read ? undefined : readFloats(weight);
  const at = rowOrder ? (n: number) => rowOrder[n]! : (n: number) => n;
  if (rows) return (n) => rows.subarray(at(n) * K, (at(n) + 1) * K);
  if (rowOrder) return (n) => readFloats(weight, at(n) * K, K);
  return slabReader(weight, K);
}

/** Writes a row to `out` from `offset` on, channel j being channel order[j] of the row. */
export function gather(row: Float32Array, order: Int32Array | undefined, out: Float32Array, offset: number): void {
  if (!order) {
    out.set(row, offset);
    return;
  }
  for (let j = 0; j < order.length; j++) out[offset + j] = row[order[j]!]!;
}

/** Rows of an NK weight that are asked for in rising order. */
function slabReader(weight: Tensor, K: number): (n: number) => Float32Array {
  const N = weight.dims[0]!;
  const slabRows = Math.max(1, Math.floor(slabElements / Math.max(1, K)));
  let first = 0;
  let slab: Float32Array = new Float32Array(0);
  return (n) => {
    if (n < first || (n - first + 1) * K > slab.length) {
      first = n;
      slab = readFloats(weight, n * K, Math.min(slabRows, N - n) * K);
    }
    return slab.subarray((n - first) * K, (n - first + 1) * K);
  };
}

/** A [K, N] weight as [N, K], read in slabs of k so that only the result is as large as the layer. */
function transposed(weight: Tensor): Float32Array {
  const [K, N] = weight.dims as [number, number];
  const out = new Float32Array(N * K);
  const slabRows = Math.max(1, Math.floor(slabElements / Math.max(1, N)));
  const whole = weight.read ? undefined : readFloats(weight);
  for (let first = 0; first < K; first += slabRows) {
    const count = Math.min(slabRows, K - first);
    const slab = whole?.subarray(first * N, (first + count) * N) ?? readFloats(weight, first * N, count * N);
    transposeSlab(slab, count, N, out, K, first);
  }
  return out;
}

/** Tiles keep the rows they read and the lines they write in the first-level cache. */
const tile = 16;

function transposeSlab(
  slab: Float32Array,
  count: number,
  N: number,
  out: Float32Array,
  K: number,
  first: number,
): void {
  for (let k0 = 0; k0 < count; k0 += tile) {
    const k1 = Math.min(count, k0 + tile);
    for (let n = 0; n < N; n++) {
      const base = n * K + first;
      for (let k = k0; k < k1; k++) out[base + k] = slab[k * N + n]!;
    }
  }
}
