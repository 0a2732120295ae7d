/**
 * Which float layers a rewritten product stands for, written on its node and read back to compare the models layer by layer.
 */
import { parseList } from '../../ops/common/json.js';
import type { Node } from '../ir/node.js';
import { decodeFactors, decodeOrder, encodeFactors, encodeOrder } from '../plan/plan.js';

/** A float layer inside a product. */
export interface Correspondence {
  /** Name of the layer's node in the float model. */
  readonly site: string;
  /** Name of the value it makes there, after the bias. */
  readonly output: string;
  readonly channels: number;
  /** Channel i of this part of the product is channel order[i] of the layer; absent for natural order. */
  readonly order?: Int32Array | undefined;
  /** Channel n of the layer is factors[n] times that of the product (smoothing); absent for 1. */
  readonly factors?: Float32Array | undefined;
}

const keys = {
  sites: 'lowbit.sites',
  outputs: 'lowbit.outputs',
  channels: 'lowbit.rows',
  order: 'lowbit.row_order',
  factors: 'lowbit.row_factors',
} as const;

/** Writes the layers of a product, in the order of its channels, as JSON lists into the node's metadata. */
export function writeCorrespondence({ metadata }: Node, parts: readonly Correspondence[]): void {
  metadata.set(keys.sites, JSON.stringify(parts.map(({ site }) => site)));
  metadata.set(keys.outputs, JSON.stringify(parts.map(({ output }) => output)));
  metadata.set(keys.channels, JSON.stringify(parts.map(({ channels }) => channels)));
  writeArrays(
    metadata,
    keys.order,
    parts.map(({ order }) => order),
  );
  writeArrays(
    metadata,
    keys.factors,
    parts.map(({ factors }) => factors),
  );
}

type Numbers = Int32Array | Float32Array | undefined;

/** As base64, one text a part; nothing if no part has any. */
function writeArrays(metadata: Map<string, string>, key: string, arrays: readonly Numbers[]): void {
  if (!arrays.some((array) => array)) return;
  const encoded = arrays.map((array) => {
    if (!array) return '';
    return array instanceof Int32Array ? encodeOrder(array) : encodeFactors(array);
  });
  metadata.set(key, JSON.stringify(encoded));
}

/** The layers of a product; none for other nodes. @throws input error if the metadata is not what the rewriter wrote */
export function readCorrespondence({ name, metadata }: Node): Correspondence[] {
  const list = <T>(key: string): T[] =>
    parseList<T>(metadata.get(key) ?? '[]', `${name}: metadata "${key}"`, 'what the rewriter wrote');
  const outputs = list<string>(keys.outputs);
  const channels = list<number>(keys.channels);
  const orders = list<string>(keys.order);
  const factors = list<string>(keys.factors);
  return list<string>(keys.sites).map((site, i) => ({
    site,
    output: outputs[i] ?? '',
    channels: channels[i] ?? 0,
    order: orders[i] ? decodeOrder(orders[i]) : undefined,
    ...(factors[i] ? { factors: decodeFactors(factors[i]) } : {}),
  }));
}

/** How the channels of a quantized input come from those of the float model's value. */
export interface InputOrder {
  /** Channel i is channel order[i]; absent for natural order. */
  readonly order?: Int32Array | undefined;
  /** Channel k of the float value was divided by smooth[k] before. */
  readonly smooth?: Float32Array | undefined;
}

const inputKeys = { order: 'lowbit.order', smooth: 'lowbit.smooth' } as const;

/** Writes it on the node that quantizes the input. */
export function writeInputOrder({ metadata }: Node, { order, smooth }: InputOrder): void {
  if (order) metadata.set(inputKeys.order, encodeOrder(order));
  if (smooth) metadata.set(inputKeys.smooth, encodeFactors(smooth));
}

/** The inverse of {@link writeInputOrder}. */
export function readInputOrder({ metadata }: Node): InputOrder {
  const [order, smooth] = [metadata.get(inputKeys.order), metadata.get(inputKeys.smooth)];
  return {
    ...(order ? { order: decodeOrder(order) } : {}),
    ...(smooth ? { smooth: decodeFactors(smooth) } : {}),
  };
}
