/**
 * Where the error of a rewritten layer comes from: the same rows of the float model are multiplied with the float weights, with the
 * quantized weights, and with both sides quantized. The two differences add up to the layer's own error.
 */
import { inputError } from '../../ops/common/errors.js';
import {
  activationFormats,
  packedRowBytes,
  type ActivationFormat,
  type WeightFormat,
} from '../../ops/formats/formats.js';
import { quantizeRows } from '../../ops/formats/segments.js';
import { splitRows } from '../../ops/quant-gemm/outlier-columns.js';
import { quantGemm, type QuantGemmAttributes, type QuantGemmInputs } from '../../ops/quant-gemm/reference.js';
import type { LinearSite } from '../analyze/sites.js';
import { attrFloat, attrInt, attrString, type Node } from '../ir/index.js';
import { gather, rowReader } from '../pack/rows.js';
import { readInputOrder } from '../passes/correspondence.js';

/** Shares of the energy of the layer's output. */
export interface ErrorSources {
  /** Of the error that quantized weights make. */
  readonly weightError: number;
  /** Of the error that quantized activations add; 0 where they stay float. */
  readonly activationError: number;
  /** Share of the input's energy that lies in the outlier channels; absent without outliers. */
  readonly outlierShare?: number;
}

/** A layer inside a product. */
export interface ProductPart {
  readonly start: number;
  readonly channels: number;
  readonly order?: Int32Array | undefined;
  readonly factors?: Float32Array | undefined;
}

/** At most this many tokens and output channels are computed, evenly spread: enough to tell the sources apart. */
const sampled = { rows: 32, outputs: 64 };

/**
 * @param node the product
 * @param site the float layer
 * @param x its input in the float model, [M, K]
 */
export function errorSources(node: Node, part: ProductPart, site: LinearSite, x: Float32Array): ErrorSources {
  const attributes = attributesOf(node);
  const { K, aFormat } = attributes;
  const quantizer = isCodes(aFormat) ? node.input(0)?.producer : undefined;
  const { order, smooth } = quantizer ? readInputOrder(quantizer) : {};
  const rows = spread(x.length / K, sampled.rows);
  const stored = new Float32Array(rows.length * K);
  rows.forEach((m, i) => {
    const row = x.slice(m * K, (m + 1) * K);
    smooth?.forEach((factor, k) => (row[k]! /= factor));
    gather(row, order, stored, i * K);
  });
  const outputs = spread(part.channels, sampled.outputs);
  const quantized = weightsOf(node, attributes, outputs, part.start);
  const products = (inputs: Pick<QuantGemmInputs, 'a' | 'aScale'>, format: QuantGemmAttributes['aFormat']) =>
    quantGemm(
      { ...inputs, ...quantized, bias: new Float32Array(0) },
      { ...attributes, N: outputs.length, aFormat: format },
      'float32',
    ).y;
  const float = floatProducts(site, part, { order, smooth }, outputs, stored, K);
  const weights = products({ a: stored }, 'none');
  const energy = float.reduce((sum, y) => sum + y * y, 0) || 1;
  const share = (a: Float64Array, b: Float64Array): number =>
    a.reduce((sum, y, i) => sum + (y - b[i]!) ** 2, 0) / energy;
  const { both, outliers } = quantizer
    ? withCodes(stored, attributes, quantizer, products)
    : withFloats(stored, node, K, products, weights);
  return {
    weightError: share(weights, float),
    activationError: share(both, weights),
    ...(outliers ? { outlierShare: energyShare(stored, K, outliers) } : {}),
  };
}

type Products = (inputs: Pick<QuantGemmInputs, 'a' | 'aScale'>, format: QuantGemmAttributes['aFormat']) => Float64Array;

/** Both sides quantized, and which stored channels are outliers. */
interface Quantized {
  readonly both: Float64Array;
  readonly outliers: ReadonlySet<number> | undefined;
}

/** Activations that a node in front quantizes. */
function withCodes(
  rows: Float32Array,
  attributes: QuantGemmAttributes,
  quantizer: Node,
  products: Products,
): Quantized {
  const { K, outlierChannels: O, aFormat } = attributes;
  const { q, scale } = quantizeRows(rows, K, formatOf(attributes, quantizer));
  const outliers = O > 0 ? new Set(Array.from({ length: O }, (_, i) => K - O + i)) : undefined;
  return { both: products({ a: q, aScale: scale }, aFormat), outliers };
}

/** Activations that stay floats, or that the product quantizes itself (LLM.int8()). */
function withFloats(rows: Float32Array, node: Node, K: number, products: Products, weights: Float64Array): Quantized {
  if (attrString(node, 'a_format', 'none') !== 's8_dynamic') return { both: weights, outliers: undefined };
  const { q, scale, columns } = splitRows(rows, K, attrFloat(node, 'threshold', 0));
  const outliers = new Set(columns);
  const restored = rows.map((value, i) => (outliers.has(i % K) ? value : q[i]! * scale[Math.floor(i / K)]!));
  return { both: products({ a: restored }, 'none'), outliers };
}

const isCodes = (format: string): boolean => (activationFormats as readonly string[]).includes(format);

/** `count` indices below `total`, evenly spread. */
function spread(total: number, count: number): number[] {
  const taken = Math.min(total, count);
  return Array.from({ length: taken }, (_, i) => Math.floor((i * total) / taken));
}

function attributesOf(node: Node): QuantGemmAttributes {
  return {
    K: attrInt(node, 'K', 0),
    N: attrInt(node, 'N', 0),
    weightFormat: attrString(node, 'weight_format', 's4') as WeightFormat,
    groupSize: attrInt(node, 'group_size', 0),
    aFormat: attrString(node, 'a_format', 'none') as QuantGemmAttributes['aFormat'],
    aGroupSize: attrInt(node, 'a_group_size', 0),
    outlierChannels: attrInt(node, 'outlier_channels', 0),
  };
}

/** How the node in front quantizes; attention says it with names of its own. */
function formatOf({ aFormat, aGroupSize, outlierChannels }: QuantGemmAttributes, quantizer: Node) {
  const clip = attrFloat(quantizer, quantizer.opType === 'QuantKvAttention' ? 'q_clip' : 'clip', 1);
  return { format: aFormat as ActivationFormat, groupSize: aGroupSize, outlierChannels, clip };
}

/** The rows `first + outputs[i]` of a product's weights. */
function weightsOf(
  node: Node,
  { K, groupSize, weightFormat, outlierChannels }: QuantGemmAttributes,
  outputs: readonly number[],
  first: number,
): Pick<QuantGemmInputs, 'b' | 'bScale' | 'bOutlier' | 'bOutlierScale' | 'lorc'> {
  const body = K - outlierChannels;
  const rows = (index: number, rowBytes: number): Uint8Array => {
    const all = constantBytes(node, index);
    const taken = new Uint8Array(outputs.length * rowBytes);
    outputs.forEach((n, i) =>
      taken.set(all.subarray((first + n) * rowBytes, (first + n + 1) * rowBytes), i * rowBytes),
    );
    return taken;
  };
  const halves = (bytes: Uint8Array) => new Uint16Array(bytes.buffer);
  const codes = rows(2, packedRowBytes(weightFormat, body));
  const lorc = node.input(8);
  return {
    b: weightFormat === 's8' ? new Int8Array(codes.buffer) : codes,
    bScale: halves(rows(3, 2 * (groupSize ? body / groupSize : 1))),
    ...(outlierChannels > 0
      ? { bOutlier: new Int8Array(rows(4, outlierChannels).buffer), bOutlierScale: halves(rows(5, 2)) }
      : {}),
    ...(lorc
      ? {
          lorc: {
            down: new Int8Array(constantBytes(node, 8).buffer),
            downScale: halves(constantBytes(node, 9)),
            up: new Int8Array(rows(10, node.input(10)!.constant()!.dims[1]!).buffer),
            upScale: halves(rows(11, 2)),
          },
        }
      : {}),
  };
}

function constantBytes(node: Node, index: number): Uint8Array {
  const tensor = node.input(index)?.constant();
  if (!tensor) throw inputError(node.name, `input ${index} is no constant, expected the weights of a rewritten layer`);
  return new Uint8Array(tensor.bytes()); // a copy: views of it start at 0
}

/** The float layer's products with rows in stored order, in the scale that the rewritten layer's outputs have. */
function floatProducts(
  { weight, layout }: LinearSite,
  part: ProductPart,
  { order, smooth }: { order?: Int32Array | undefined; smooth?: Float32Array | undefined },
  outputs: readonly number[],
  rows: Float32Array,
  K: number,
): Float64Array {
  const M = rows.length / K;
  const y = new Float64Array(M * outputs.length);
  const read = rowReader({
    ...{ weight, layout },
    ...(part.order ? { rowOrder: part.order } : {}),
    ...(smooth || part.factors ? { smooth: { columns: smooth, rows: part.factors } } : {}),
  });
  const column = new Float32Array(K);
  outputs.forEach((n, i) => {
    gather(read(n), order, column, 0);
    for (let m = 0; m < M; m++) {
      let sum = 0;
      for (let k = 0; k < K; k++) sum += rows[m * K + k]! * column[k]!;
      y[m * outputs.length + i] = sum;
    }
  });
  return y;
}

function energyShare(rows: Float32Array, K: number, outliers: ReadonlySet<number>): number {
  let [all, theirs] = [0, 0];
  rows.forEach((value, i) => {
    all += value * value;
    if (outliers.has(i % K)) theirs += value * value;
  });
  return theirs / (all || 1);
}
