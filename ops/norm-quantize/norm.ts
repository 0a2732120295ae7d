/** RMSNorm and LayerNorm of one row in binary32, in the README's fixed order of summation. */

const f = Math.fround;
const lanes = 1024;

/** Sum of a row: 1024 lanes take every 1024th element, then neighbours are added pairwise. */
export function laneSum(values: Float32Array): number {
  const sums = new Float32Array(lanes); // storing into it rounds
  values.forEach((value, k) => {
    sums[k % lanes]! += value;
  });
  for (let count = lanes / 2; count >= 1; count /= 2) {
    for (let j = 0; j < count; j++) sums[j] = sums[2 * j]! + sums[2 * j + 1]!;
  }
  return sums[0]!;
}

export interface NormAttributes {
  readonly norm: 'rms' | 'layer';
  readonly epsilon: number;
}

/**
 * The norm of one row.
 * @param x [K] values, widened to binary32
 * @param weight [K]; `bias` [K] or absent
 * @returns [K] binary32 values, not rounded to the graph type
 */
export function normalizeRow(
  x: Float32Array,
  weight: Float32Array,
  bias: Float32Array | undefined,
  { norm, epsilon }: NormAttributes,
): Float32Array {
  const mean = norm === 'layer' ? f(laneSum(x) / x.length) : 0;
  const centred = norm === 'layer' ? x.map((value) => value - mean) : x;
  const square = f(laneSum(centred.map((d) => d * d)) / x.length);
  const r = f(1 / f(Math.sqrt(f(square + f(epsilon)))));
  return centred.map((d, k) => {
    const y = f(f(d * r) * weight[k]!);
    return bias ? y + bias[k]! : y;
  });
}
