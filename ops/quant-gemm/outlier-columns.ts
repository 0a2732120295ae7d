/** The oracle of `QuantGemm` with `a_format` s8_dynamic (LLM.int8()): floats in, outlier columns multiplied as floats. */
import { fromFloat16Bits } from '../common/float16.js';
import { quantizeRows } from '../formats/segments.js';
import { quantGemm, type QuantGemmInputs, type QuantGemmResult } from './reference.js';

/** Rows without their outlier columns as s8 codes, and those columns. */
export interface SplitRows {
  /** [M, K], 0 in outlier columns. */
  readonly q: Int8Array;
  /** [M]. */
  readonly scale: Float32Array;
  /** Indices, rising. */
  readonly columns: readonly number[];
}

/** @param a floats [M, K], widened */
export function splitRows(a: Float32Array, K: number, threshold: number): SplitRows {
  const reached = new Set<number>();
  a.forEach((value, i) => {
    if (threshold > 0 && Math.abs(value) >= Math.fround(threshold)) reached.add(i % K);
  });
  const columns = [...reached].sort((one, other) => one - other);
  const rest = a.slice();
  for (const k of columns) for (let i = k; i < rest.length; i += K) rest[i] = 0;
  return { ...quantizeRows(rest, K, { format: 's8', groupSize: 0, outlierChannels: 0, clip: 1 }), columns };
}

/** Attributes of the product; weights are s8, one scale a row. */
export interface DynamicAttributes {
  readonly K: number;
  readonly N: number;
  readonly threshold: number;
}

/** The product of the README, with its bound. `inputs.a` holds floats. */
export function quantGemmDynamic(
  inputs: QuantGemmInputs,
  { K, N, threshold }: DynamicAttributes,
  graphType: 'float32' | 'float16',
): QuantGemmResult {
  const a = inputs.a as Float32Array;
  const { q, scale, columns } = splitRows(a, K, threshold);
  const format = { aFormat: 's8', aGroupSize: 0, weightFormat: 's8', groupSize: 0, outlierChannels: 0 } as const;
  const { y, bound } = quantGemm({ ...inputs, a: q, aScale: scale }, { K, N, ...format }, 'float32');
  for (let i = 0; i < y.length; i++) {
    const [m, n] = [Math.floor(i / N), i % N];
    const products = columns.map((k) => a[m * K + k]! * inputs.b[n * K + k]! * fromFloat16Bits(inputs.bScale[n]!));
    const residual = inputs.residual?.[i] ?? 0;
    const term = products.reduce((sum, product) => sum + product, 0);
    const magnitude = products.reduce((sum, product) => sum + Math.abs(product), Math.abs(residual));
    y[i]! += term;
    bound[i]! += (columns.length + 6) * 2 ** -24 * magnitude;
    if (graphType === 'float32') continue;
    if (columns.length > 0) bound[i]! += Math.abs(term + residual) * 2 ** -11 + 2 ** -25;
    bound[i]! += (Math.abs(y[i]!) + bound[i]!) * 2 ** -11 + 2 ** -25;
  }
  return { y, bound };
}
