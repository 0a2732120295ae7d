import { inputError, internalError } from '../../ops/common/errors.js';
import { packedRowBytes, weightBits, weightStorage, type WeightFormat } from '../../ops/formats/formats.js';
import { isMinifloat } from '../../ops/formats/minifloat.js';
import { lazyTensor, type Tensor } from '../ir/tensor.js';
import type { DType } from '../onnx/dtype.js';
import { searchScale } from './clip-search.js';
import { writeMinifloat } from './minifloat.js';
import { constrainScales } from './scale-rule.js';
import { planesOf } from './lorc.js';
import { type Refusal, segmentScale, writeS4, writeS8 } from './quantize.js';
import type { ClipSearch, LorcSettings, ScaleRule } from '../recipes/recipe.js';
import { gather, rowReader, sizeOf, type WeightSource } from './rows.js';

/** How the weight of one QuantGemm is quantized and laid out. */
export interface PackSpec extends ScaleRule {
  readonly format: WeightFormat;
  /** Body channels that share a scale, 0 = all. */
  readonly groupSize: number;
  /** Clip ratio of the body; not used with a search. */
  readonly clip: number;
  /** Each group takes the clip ratio with the smallest squared error; `hessian` weights it by {@link energy}. Default: `none`. */
  readonly clipSearch?: ClipSearch;
  /** Mean square of the activations of each stored channel, [K]. */
  readonly energy?: Float32Array;
  /** Adjacent output rows that share a body scale. */
  readonly channelGroup: 1 | 2;
  /** The last channels after reordering, in 8 bits with one scale a row. */
  readonly outlierChannels: number;
  /** Column j of the packed weight is column columnOrder[j] of the float weight. */
  readonly columnOrder?: Int32Array;
  /** A term of this rank beside the codes. It takes a decomposition, so `packLinear` leaves it out; see `round/lorc.ts`. */
  readonly lorc?: LorcSettings;
}

/** The constant inputs of a QuantGemm, computed when their bytes are asked for. */
export interface PackedLinear {
  /** 4 bits: uint8 [N, ceil((K−O)/2)]; 8 bits: int8 [N, K−O]. */
  readonly b: Tensor;
  /** float16 [N, groups]. */
  readonly bScale: Tensor;
  /** int8 [N, O], with outliers. */
  readonly bOutlier?: Tensor;
  /** float16 [N], with outliers. */
  readonly bOutlierScale?: Tensor;
  /** With a low-rank term: int8 [P·R, K], float16 [R], int8 [N, P·R], float16 [N]. */
  readonly lorcDown?: Tensor;
  readonly lorcDownScale?: Tensor;
  readonly lorcUp?: Tensor;
  readonly lorcUpScale?: Tensor;
}

/** Sizes of a product and of the parts that it is stored in. */
export interface Sizes {
  readonly N: number;
  readonly K: number;
  readonly body: number;
  readonly group: number;
  readonly groups: number;
  readonly outliers: number;
}

type CodePart = 'b' | 'bScale' | 'bOutlier' | 'bOutlierScale';
type LorcPart = 'lorcDown' | 'lorcDownScale' | 'lorcUp' | 'lorcUpScale';
export type Part = CodePart | LorcPart;
/** The bytes of all parts; those of outliers are empty where there are none, those of a low-rank term absent. */
export type Parts = Record<CodePart, Uint8Array> & Partial<Record<LorcPart, Uint8Array>>;

/**
 * Quantizes and packs the weights of a linear layer, or of several that share their input, one below the other.
 *
 * Nothing is read before the bytes of a result are asked for. Then the layer is packed once and each part is kept until it is given
 * out, so a file that is written in sequence holds one layer in memory. Layers with the same weights and orders get the same tensors.
 * @param name the layer, for errors
 * @throws input error that names the layer if a weight is not finite or beyond what a float16 scale can hold
 */
export function packLinear(name: string, sources: readonly WeightSource[], spec: PackSpec): PackedLinear {
  const before = findPacked(sources, spec);
  if (before) return before;
  const packed = lazyParts(name, sources, spec);
  const first = sources[0]!.weight;
  packedBySource.set(first, [...(packedBySource.get(first) ?? []), { sources, spec, packed }]);
  return packed;
}

/** What was packed, by its first weight, so that layers that share a weight share the packed one. */
const packedBySource = new WeakMap<
  Tensor,
  { sources: readonly WeightSource[]; spec: PackSpec; packed: PackedLinear }[]
>();

function findPacked(sources: readonly WeightSource[], spec: PackSpec): PackedLinear | undefined {
  const candidates = sources[0] ? packedBySource.get(sources[0].weight) : undefined;
  return candidates?.find((each) => packAlike(each, { sources, spec }))?.packed;
}

interface Packing {
  readonly sources: readonly WeightSource[];
  readonly spec: PackSpec;
}

const specKeys = [
  ...(['format', 'groupSize', 'clip', 'channelGroup', 'outlierChannels'] as const),
  ...(['scaleConstraint', 'scaleRound', 'clipSearch'] as const),
];

/** Whether two products have the same weights, orders and formats. */
export function packAlike(a: Packing, b: Packing): boolean {
  return (
    a.sources.length === b.sources.length &&
    a.sources.every((source, i) => sameSource(source, b.sources[i]!)) &&
    specKeys.every((key) => a.spec[key] === b.spec[key]) &&
    a.spec.lorc?.rank === b.spec.lorc?.rank &&
    a.spec.lorc?.bits === b.spec.lorc?.bits &&
    sameNumbers(a.spec.columnOrder, b.spec.columnOrder) &&
    sameNumbers(a.spec.energy, b.spec.energy)
  );
}

function sameSource(a: WeightSource, b: WeightSource): boolean {
  return (
    a.weight === b.weight &&
    a.layout === b.layout &&
    sameNumbers(a.rowOrder, b.rowOrder) &&
    sameNumbers(a.smooth?.columns, b.smooth?.columns) &&
    sameNumbers(a.smooth?.rows, b.smooth?.rows)
  );
}

type Numbers = Int32Array | Float32Array | undefined;

function sameNumbers(a: Numbers, b: Numbers): boolean {
  return (
    a === b || (a !== undefined && b !== undefined && a.length === b.length && a.every((each, i) => each === b[i]))
  );
}

function lazyParts(name: string, sources: readonly WeightSource[], spec: PackSpec): PackedLinear {
  const sizes = packedSizes(name, sources, spec);
  let waiting: Partial<Parts> = {};
  const take = (part: Part) => () => {
    if (!waiting[part]) waiting = packAll(name, sources, spec, sizes);
    const { [part]: bytes, ...rest } = waiting;
    waiting = rest;
    return bytes!;
  };
  return tensorsOf(sizes, { format: spec.format }, (part, dtype, dims) => lazyTensor(dtype, dims, take(part)));
}

/** The tensors of a product; `make` gives each its bytes. */
export function tensorsOf(
  { N, K, body, groups, outliers }: Sizes,
  { format, lorc }: Pick<PackSpec, 'format' | 'lorc'>,
  make: (part: Part, dtype: DType, dims: readonly number[]) => Tensor,
): PackedLinear {
  const codes = lorc ? planesOf(lorc) * lorc.rank : 0;
  return {
    b: make('b', weightStorage(format), [N, packedRowBytes(format, body)]),
    bScale: make('bScale', 'float16', [N, groups]),
    ...(outliers > 0 && {
      bOutlier: make('bOutlier', 'int8', [N, outliers]),
      bOutlierScale: make('bOutlierScale', 'float16', [N]),
    }),
    ...(lorc && {
      lorcDown: make('lorcDown', 'int8', [codes, K]),
      lorcDownScale: make('lorcDownScale', 'float16', [lorc.rank]),
      lorcUp: make('lorcUp', 'int8', [N, codes]),
      lorcUpScale: make('lorcUpScale', 'float16', [N]),
    }),
  };
}

/** The sizes of a product. @throws internal error if sources and specification do not fit together */
export function packedSizes(name: string, sources: readonly WeightSource[], spec: PackSpec): Sizes {
  const all = sources.map(sizeOf);
  const K = all[0]?.K ?? 0;
  const N = all.reduce((sum, each) => sum + each.N, 0);
  const outliers = spec.outlierChannels;
  const body = K - outliers;
  const group = spec.groupSize || body;
  if (all.some((each) => each.K !== K))
    throw internalError(name, `weights have K ${all.map((each) => each.K).join(', ')}`);
  if (body < 1 || body % group !== 0) {
    throw internalError(name, `K ${K}, ${outliers} outliers and group size ${spec.groupSize} do not fit together`);
  }
  if (spec.columnOrder && spec.columnOrder.length !== K) {
    throw internalError(name, `the column order has ${spec.columnOrder.length} entries, expected ${K}`);
  }
  return { N, K, body, group, groups: body / group, outliers };
}

function packAll(name: string, sources: readonly WeightSource[], spec: PackSpec, sizes: Sizes): Parts {
  const { N, body, groups, outliers } = sizes;
  const parts: Parts = {
    b: new Uint8Array(N * packedRowBytes(spec.format, body)),
    bScale: new Uint8Array(N * groups * 2),
    bOutlier: new Uint8Array(N * outliers),
    bOutlierScale: new Uint8Array(outliers > 0 ? N * 2 : 0),
  };
  let row = 0;
  for (const source of sources) {
    packSource(name, source, spec, sizes, row, parts);
    row += sizeOf(source).N;
  }
  return parts;
}

/** Packs one source below the `first` rows that are already there. Rows that share scales are of one source. */
function packSource(
  name: string,
  source: WeightSource,
  spec: PackSpec,
  { K, body, group, groups, outliers }: Sizes,
  first: number,
  parts: Parts,
): void {
  const { format, clip, clipSearch = 'none', energy, channelGroup, columnOrder } = spec;
  const { N } = sizeOf(source);
  const readRow = rowReader(source);
  const rowBytes = packedRowBytes(format, body);
  const scales = new Uint16Array(parts.bScale.buffer);
  const outlierScales = new Uint16Array(parts.bOutlierScale.buffer);
  const write = writerOf(format);
  const values = new Float32Array(channelGroup * K);
  const scale = { bits: 0, inverse: 0 };
  const bits = new Uint16Array(groups);
  const inverses = new Float32Array(groups);
  for (let n = 0; n < N; n += channelGroup) {
    const rows = Math.min(channelGroup, N - n);
    for (let r = 0; r < rows; r++) gather(readRow(n + r), columnOrder, values, r * K);
    for (let g = 0; g < groups; g++) {
      const segment = { rows, stride: K, start: g * group, length: group };
      const refusal =
        clipSearch === 'none'
          ? segmentScale(values, segment, format, clip, scale)
          : searchScale(values, segment, format, energy?.subarray(g * group), scale);
      refuse(name, n, refusal);
      bits[g] = scale.bits;
      inverses[g] = scale.inverse;
    }
    constrainScales(values, { rows, stride: K, group, groups }, spec, bits, inverses);
    for (let g = 0; g < groups; g++) {
      for (let r = 0; r < rows; r++) {
        const row = first + n + r;
        scales[row * groups + g] = bits[g]!;
        const codeBytes = weightBits(format) === 4 ? (g * group) >> 1 : g * group;
        write(values, r * K + g * group, group, inverses[g]!, parts.b, row * rowBytes + codeBytes);
      }
    }
    for (let r = 0; r < rows && outliers > 0; r++) {
      const row = first + n + r;
      const segment = { rows: 1, stride: K, start: r * K + body, length: outliers };
      refuse(name, n + r, segmentScale(values, segment, 's8', 1, scale));
      outlierScales[row] = scale.bits;
      writeS8(values, r * K + body, outliers, scale.inverse, parts.bOutlier, row * outliers);
    }
  }
}

type Write = typeof writeS4;

function writerOf(format: WeightFormat): Write {
  if (isMinifloat(format)) return (...rest) => writeMinifloat(format, ...rest);
  return format === 's4' ? writeS4 : writeS8;
}

/** @throws input error that says why output channel `row` cannot be quantized, if it cannot */
export function refuse(name: string, row: number, refusal: Refusal | undefined): void {
  const hint = `Keep this layer in float by an override of the recipe: {"match": {"name": "${name}"}, "keep": "…"}.`;
  if (refusal === 'non-finite') {
    throw inputError(name, `the weight of output channel ${row} holds NaN or infinity, expected finite values`, hint);
  }
  if (refusal === 'too-large') {
    throw inputError(name, `the weight of output channel ${row} needs a scale above 65504, the largest float16`, hint);
  }
}
