/** Products for tests of QuantGemm: what they multiply, and the models and feeds that run them. */
import { Tensor } from '../../native/js/index.js';
import { toFloat16Array } from '../../ops/common/float16.js';
import { codeFormats, largestOf, packedRowBytes, weightBits, weightStorage } from '../../ops/formats/formats.js';
import { isMinifloat, minifloatValues, packNibbles, type MinifloatName } from '../../ops/formats/minifloat.js';
import { packS4 } from '../../ops/formats/s4.js';
import { toSignMagnitude } from '../../ops/formats/sign-magnitude.js';
import { type LorcInputs, type QuantGemmAttributes, type QuantGemmInputs } from '../../ops/quant-gemm/reference.js';
import { constantFloats, floatTensor, type GraphType, type OpSpec } from './op-model.js';
import type { Random } from './random.js';
import { rowCounts } from './shapes.js';

export interface Case extends QuantGemmAttributes {
  /** A low-rank term: its rank and codes a value. */
  readonly lorc?: readonly [rank: number, planes: 1 | 2];
}

/** A product of [K, N, outliers], activations [format, group] and weights [format, group]. */
export const gemm = (
  [K, N, outlierChannels]: [K: number, N: number, O: number],
  [aFormat, aGroupSize]: [Case['aFormat'], number],
  [weightFormat, groupSize]: [Case['weightFormat'], number],
): Case => ({ K, N, outlierChannels, aFormat, aGroupSize, weightFormat, groupSize });

export const caseTitle = (c: Case): string =>
  `K ${c.K} N ${c.N} outliers ${c.outlierChannels} a ${c.aFormat}/${c.aGroupSize} b ${c.weightFormat}/${c.groupSize}` +
  (c.lorc ? ` rank ${c.lorc.join('/')}` : '');

/** Rows that inputs are made for. */
export const rowTotal = Math.max(...rowCounts);
const bodyOf = (c: Case): number => c.K - c.outlierChannels;
export const scalesPerRow = (c: Case): number =>
  (c.aGroupSize ? bodyOf(c) / c.aGroupSize : 1) + (c.outlierChannels ? 1 : 0);
const weightGroups = (c: Case): number => (c.groupSize ? bodyOf(c) / c.groupSize : 1);

/** Everything of a product but its scales: random codes, with rows of extremes and of zeros among them. */
export function codesOf(c: Case, type: GraphType, random: Random): Pick<QuantGemmInputs, 'a' | 'b' | 'bOutlier'> {
  const body = bodyOf(c);
  const b = extremesAndCodes(c.weightFormat, c.N, body, random, (n) => n === 0);
  const bOutlier = c.outlierChannels ? random.codes(c.N * c.outlierChannels, -128, 127) : undefined;
  const packed =
    weightBits(c.weightFormat) === 8 ? b : c.weightFormat === 's4' ? packS4(b, c.N, body) : packNibbles(b, c.N, body);
  if (c.aFormat === 'none') return { a: random.normals(type, rowTotal * c.K), b: packed, bOutlier };
  const bodyCodes = extremesAndCodes(c.aFormat, rowTotal, body, random, (m) => m % 8 === 1);
  const a = new Int8Array(rowTotal * c.K);
  for (let m = 0; m < rowTotal; m++) {
    const row = a.subarray(m * c.K, (m + 1) * c.K);
    if (m % 8 !== 2) row.set(bodyCodes.subarray(m * body, (m + 1) * body));
    if (c.outlierChannels > 0) row.set(random.codes(c.outlierChannels, -128, 127), body);
  }
  return { a, b: packed, bOutlier };
}

/** Random codes with finite values [rows, cols]; in some rows the largest magnitude only. */
function extremesAndCodes(
  format: Case['weightFormat'] | Exclude<Case['aFormat'], 'none'>,
  rows: number,
  cols: number,
  random: Random,
  extreme: (row: number) => boolean,
): Int8Array {
  const legal = isMinifloat(format) ? finiteCodes(format) : integerCodes(codeFormats[format]);
  const codes = Int8Array.from({ length: rows * cols }, () => legal[random.int(0, legal.length - 1)]!);
  for (let row = 0; row < rows; row++) {
    if (extreme(row)) codes.fill(legal[0]!, row * cols, (row + 1) * cols);
  }
  if (format === 's4_e4m3') toSignMagnitude(codes);
  return codes;
}

const integerCodes = ({ min, max }: { min: number; max: number }): number[] =>
  Array.from({ length: max - min + 1 }, (_, i) => min + i);

/** Bit patterns of finite values, that of the largest first. */
function finiteCodes(format: MinifloatName): number[] {
  const values = [...minifloatValues(format)];
  const finite = values.flatMap((value, code) => (Number.isFinite(value) ? [code] : []));
  return finite.sort((a, b) => values[b]! - values[a]!);
}

/**
 * Scales of 0 and 1 that leave one segment of each output: the sum then is that segment's integer sum, exact in binary32.
 * Row m keeps segment m mod S; where only weights have groups, channel n keeps group n mod groups.
 */
export function oneHotScales(c: Case): Pick<QuantGemmInputs, 'aScale' | 'bScale' | 'bOutlierScale'> {
  const S = scalesPerRow(c);
  const groups = weightGroups(c);
  const aScale = Float32Array.from({ length: rowTotal * S }, (_, i) => (i % S === Math.floor(i / S) % S ? 1 : 0));
  const onlyWeightGroups = c.groupSize > 0 && c.aGroupSize === 0;
  const bScale = Float32Array.from({ length: c.N * groups }, (_, i) =>
    !onlyWeightGroups || i % groups === Math.floor(i / groups) % groups ? 1 : 0,
  );
  const bOutlierScale = c.outlierChannels ? toFloat16Array(new Float32Array(c.N).fill(1)) : undefined;
  return { aScale, bScale: toFloat16Array(bScale), bOutlierScale };
}

export function randomScales(c: Case, random: Random): Pick<QuantGemmInputs, 'aScale' | 'bScale' | 'bOutlierScale'> {
  const positive = (count: number, size: number): Float32Array =>
    Float32Array.from({ length: count }, () => size * (0.1 + random.next()));
  // Floats span a wider range than integers do; their products shall stay within float16.
  const unit = (format: Case['weightFormat'] | Exclude<Case['aFormat'], 'none'>): number =>
    isMinifloat(format) ? 1 / largestOf(format) : 0.01;
  const aScale = c.aFormat === 'none' ? undefined : positive(rowTotal * scalesPerRow(c), unit(c.aFormat) * 10);
  const bOutlierScale = c.outlierChannels ? toFloat16Array(positive(c.N, 0.001)) : undefined;
  return { aScale, bScale: toFloat16Array(positive(c.N * weightGroups(c), unit(c.weightFormat))), bOutlierScale };
}

export function lorcOf({ K, N, lorc }: Case, random: Random): LorcInputs | undefined {
  if (!lorc) return undefined;
  const [rank, planes] = lorc;
  const scales = (count: number): Uint16Array =>
    toFloat16Array(Float32Array.from({ length: count }, () => 0.0005 * (0.1 + random.next())));
  return {
    down: random.codes(planes * rank * K, -128, 127),
    downScale: scales(rank),
    up: random.codes(N * planes * rank, -128, 127),
    upScale: scales(N),
  };
}

/** The node; weights, scales and bias are constants, activations and residual are fed. */
export function specOf(c: Case, type: GraphType, inputs: QuantGemmInputs): OpSpec {
  const bCols = packedRowBytes(c.weightFormat, bodyOf(c));
  const outliers = c.outlierChannels > 0;
  const quantized = c.aFormat !== 'none';
  return {
    op: 'QuantGemm',
    inputs: [
      { name: 'a', dtype: quantized ? 'int8' : type, dims: ['A', 'B', c.K] },
      quantized ? { name: 'a_scale', dtype: 'float32', dims: ['A', 'B', scalesPerRow(c)] } : undefined,
      { name: 'b', dtype: weightStorage(c.weightFormat), dims: [c.N, bCols], constant: inputs.b },
      { name: 'b_scale', dtype: 'float16', dims: [c.N, weightGroups(c)], constant: inputs.bScale },
      outliers
        ? { name: 'b_outlier', dtype: 'int8', dims: [c.N, c.outlierChannels], constant: inputs.bOutlier }
        : undefined,
      outliers ? { name: 'b_outlier_scale', dtype: 'float16', dims: [c.N], constant: inputs.bOutlierScale } : undefined,
      { name: 'bias', dtype: type, dims: [inputs.bias.length], constant: constantFloats(type, inputs.bias) },
      inputs.residual && { name: 'residual', dtype: type, dims: ['A', 'B', c.N] },
      ...lorcSpec(c, inputs.lorc),
    ],
    outputs: [{ name: 'y', dtype: type, dims: ['A', 'B', c.N] }],
    attributes: {
      K: c.K,
      N: c.N,
      weight_format: c.weightFormat,
      group_size: c.groupSize,
      a_format: c.aFormat,
      a_group_size: c.aGroupSize,
      outlier_channels: c.outlierChannels,
    },
  };
}

function lorcSpec({ K, N }: Case, lorc: LorcInputs | undefined): OpSpec['inputs'] {
  if (!lorc) return [];
  const { down, downScale, up, upScale } = lorc;
  return [
    { name: 'lorc_down', dtype: 'int8', dims: [down.length / K, K], constant: down },
    { name: 'lorc_down_scale', dtype: 'float16', dims: [downScale.length], constant: downScale },
    { name: 'lorc_up', dtype: 'int8', dims: [N, up.length / N], constant: up },
    { name: 'lorc_up_scale', dtype: 'float16', dims: [N], constant: upScale },
  ];
}

/** The first M rows as feeds. */
export function feedsOf(c: Case, type: GraphType, inputs: QuantGemmInputs, M: number): Record<string, Tensor> {
  const lead = M === 64 ? [4, 16] : [1, M];
  const { a, aScale, residual } = inputs;
  const S = scalesPerRow(c);
  const rowsOfA = a.subarray(0, M * c.K);
  const aTensor =
    rowsOfA instanceof Int8Array
      ? new Tensor('int8', rowsOfA, [...lead, c.K])
      : floatTensor(type, rowsOfA, [...lead, c.K]);
  return {
    a: aTensor,
    ...(aScale ? { a_scale: new Tensor('float32', aScale.subarray(0, M * S), [...lead, S]) } : {}),
    ...(residual ? { residual: floatTensor(type, residual.subarray(0, M * c.N), [...lead, c.N]) } : {}),
  };
}
