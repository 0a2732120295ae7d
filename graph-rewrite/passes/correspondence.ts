/**
 * Which float layers a rewritten product stands for, written on its node and read back to compare the models layer by layer.
 */
import type { Node } from '../ir/node.js';

/** A float layer inside a product. */
export interface Correspondence {
  /** Name of the layer's node in the float model. */
  readonly site: string;
  /** Name of the value it makes there, after the bias. */
  readonly output: string;
  readonly channels: number;
  /** Channel i of this part of the product is channel order[i] of the layer; absent for natural order. */
  readonly order?: Int32Array | undefined;
}

const keys = {
  sites: 'lowbit.sites',
  outputs: 'lowbit.outputs',
  channels: 'lowbit.rows',
  order: 'lowbit.row_order',
} as const;

/** Writes the layers of a product, in the order of its channels, as JSON lists into the node's metadata. */
export function writeCorrespondence({ metadata }: Node, parts: readonly Correspondence[]): void {
  metadata.set(keys.sites, JSON.stringify(parts.map(({ site }) => site)));
  metadata.set(keys.outputs, JSON.stringify(parts.map(({ output }) => output)));
  metadata.set(keys.channels, JSON.stringify(parts.map(({ channels }) => channels)));
  if (!parts.some(({ order }) => order)) return;
  const encoded = parts.map(({ order }) =>
    order ? Buffer.from(Int32Array.from(order).buffer).toString('base64') : '',
  );
  metadata.set(keys.order, JSON.stringify(encoded));
}

/** The layers of a product; none for other nodes. */
export function readCorrespondence({ metadata }: Node): Correspondence[] {
  const list = <T>(key: string): T[] => JSON.parse(metadata.get(key) ?? '[]') as T[];
  const outputs = list<string>(keys.outputs);
  const channels = list<number>(keys.channels);
  const orders = list<string>(keys.order);
  return list<string>(keys.sites).map((site, i) => ({
    site,
    output: outputs[i] ?? '',
    channels: channels[i] ?? 0,
    order: orders[i] ? decodeOrder(orders[i]) : undefined,
  }));
}

function decodeOrder(text: string): Int32Array {
  return new Int32Array(new Uint8Array(Buffer.from(text, 'base64')).buffer);
}
