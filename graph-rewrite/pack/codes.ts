/** Codes of a whole product: laid out as QuantGemm reads them, and read back. */
import { fromFloat16Bits } from '../../ops/common/float16.js';
import { weightBits } from '../../ops/formats/formats.js';
import { isMinifloat, minifloatValues, unpackNibbles } from '../../ops/formats/minifloat.js';
import { packS4, unpackS4 } from '../../ops/formats/s4.js';
import { refuse, type Parts, type PackSpec, type Sizes } from './linear.js';
import { gather, rowReader, sizeOf, type WeightSource } from './rows.js';

/** What a rounding algorithm gives: codes [N, K] in stored channel order, float16 scales [N, groups] and [N] (of outliers). */
export interface Codes {
  readonly codes: Int8Array;
  readonly scales: Uint16Array;
  readonly outlierScales: Uint16Array;
}

const infinityBits = 0x7c00;

/**
 * The floats of a product, [N, K], rows and channels in stored order.
 * @param name the layer, for errors
 * @throws input error that names the layer if a weight is not finite
 */
export function floatRows(name: string, sources: readonly WeightSource[], spec: PackSpec): Float32Array {
  const K = sizeOf(sources[0]!).K;
  const rows = new Float32Array(sources.reduce((sum, source) => sum + sizeOf(source).N, 0) * K);
  let row = 0;
  for (const source of sources) {
    const read = rowReader(source);
    for (let n = 0; n < sizeOf(source).N; n++, row++) gather(read(n), spec.columnOrder, rows, row * K);
  }
  const bad = rows.findIndex((value) => !Number.isFinite(value));
  if (bad >= 0) refuse(name, Math.floor(bad / K), 'non-finite');
  return rows;
}

/** @throws input error that names the layer if a scale is beyond float16 */
export function packCodes(name: string, { codes, scales, outlierScales }: Codes, spec: PackSpec, sizes: Sizes): Parts {
  const { N, K, body, groups, outliers } = sizes;
  const tooLarge = scales.indexOf(infinityBits);
  if (tooLarge >= 0) refuse(name, Math.floor(tooLarge / groups), 'too-large');
  const outlierTooLarge = outlierScales.indexOf(infinityBits);
  if (outlierTooLarge >= 0) refuse(name, outlierTooLarge, 'too-large');
  const bodyCodes = outliers === 0 ? codes : columns(codes, N, K, 0, body);
  return {
    b: weightBits(spec.format) === 4 ? packS4(bodyCodes, N, body) : bytesOf(bodyCodes),
    bScale: bytesOf(scales),
    bOutlier: bytesOf(columns(codes, N, K, body, outliers)),
    bOutlierScale: bytesOf(outlierScales),
  };
}

/** The floats [N, K] that packed parts stand for. */
export function unpackFloats(
  parts: Parts,
  spec: PackSpec,
  { N, K, body, group, groups, outliers }: Sizes,
): Float32Array {
  const codes = bodyValues(parts.b, spec, N, body);
  const scales = halves(parts.bScale);
  const outlierCodes = signed(parts.bOutlier);
  const outlierScales = halves(parts.bOutlierScale);
  const out = new Float32Array(N * K);
  for (let n = 0; n < N; n++) {
    for (let g = 0; g < groups; g++) {
      const scale = scales[n * groups + g]!;
      for (let k = g * group; k < (g + 1) * group; k++) out[n * K + k] = codes[n * body + k]! * scale;
    }
    for (let k = 0; k < outliers; k++) out[n * K + body + k] = outlierCodes[n * outliers + k]! * outlierScales[n]!;
  }
  return out;
}

/** What the body's codes stand for, without their scales. */
function bodyValues(packed: Uint8Array, { format }: PackSpec, N: number, body: number): ArrayLike<number> {
  if (!isMinifloat(format)) return format === 's4' ? unpackS4(packed, N, body) : signed(packed);
  const values = minifloatValues(format);
  const codes = weightBits(format) === 4 ? unpackNibbles(packed, N, body) : packed;
  return Float32Array.from(codes, (code) => values[code]!);
}

function columns(codes: Int8Array, N: number, K: number, first: number, count: number): Int8Array {
  const out = new Int8Array(N * count);
  for (let n = 0; n < N; n++) out.set(codes.subarray(n * K + first, n * K + first + count), n * count);
  return out;
}

/** The bytes of an array, not a copy. */
export const bytesOf = ({ buffer, byteOffset, byteLength }: Int8Array | Uint16Array): Uint8Array =>
  new Uint8Array(buffer, byteOffset, byteLength);

const signed = ({ buffer, byteOffset, byteLength }: Uint8Array): Int8Array =>
  new Int8Array(buffer, byteOffset, byteLength);

function halves(bytes: Uint8Array): Float32Array {
  const bits = new Uint16Array(bytes.slice().buffer);
  return Float32Array.from(bits, (each) => fromFloat16Bits(each));
}
