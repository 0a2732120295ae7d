/** The cache of attention made of plain nodes: Softmax(q · kᵀ + mask) · v with Concat(past, new) in front. */
import { attrInt, type Node, type Value } from '../ir/index.js';
import { scalarOf } from '../match/constants.js';
import { probabilityProduct } from './attention.js';
import { assemble } from './kv-assemble.js';
import { followHeads, outputRows, scalarFactor, type HeadPath } from './kv-heads.js';
import type { Shapes } from './shapes.js';
import type { AttentionSite, CachedAttention } from './sites.js';

type Found = CachedAttention | string;

export function findDecomposedCache(
  { node: softmax }: AttentionSite,
  shapes: Shapes,
): { found: Found; hasCache: boolean } {
  const product = probabilityProduct(softmax);
  const scores = readScores(softmax, shapes);
  if (!product) return { found: 'no product with values follows its Softmax', hasCache: false };
  const values = followHeads(product.input(1), shapes);
  if (typeof values === 'string') return { found: values, hasCache: readsCache(product.input(1)) };
  if (!values.cache) return { found: noCache, hasCache: false };
  return { found: typeof scores === 'string' ? scores : putTogether(product, scores, values, shapes), hasCache: true };
}

export const noCache = 'it keeps no cache';

/** Whether a cache input is not far behind a value. */
export function readsCache(value: Value | undefined, depth = 12): boolean {
  if (!value || depth === 0) return false;
  if (value.isGraphInput) return value.shape?.length === 4;
  return value.producer?.inputs.some((input) => readsCache(input, depth - 1)) ?? false;
}

interface Scores {
  readonly product: Node;
  readonly scale: number;
  readonly softcap: number;
  readonly mask?: CachedAttention['mask'];
}

/** The chain between the product of queries and keys and the Softmax, read backwards. */
function readScores(softmax: Node, shapes: Shapes): Scores | string {
  if (attrInt(softmax, 'axis', -1) !== -1 && attrInt(softmax, 'axis', -1) !== 3)
    return `Softmax "${softmax.name}" is not over the last axis`;
  let at = softmax.input(0);
  let scale = 1;
  let softcap = 0;
  let mask: CachedAttention['mask'];
  for (let hops = 0; at && hops < 12; hops++) {
    const node: Node | undefined = at.producer;
    if (!node) break;
    const where = `${node.opType} "${node.name}"`;
    if (node.is('MatMul')) return { product: node, scale, softcap, ...(mask ? { mask } : {}) };
    const factor = scalarFactor(node);
    if (factor) {
      scale *= factor.factor;
      at = factor.x;
    } else if (node.is('Add') || node.is('Where')) {
      if (mask) return `${where} is a second mask`;
      if (scale !== 1 || softcap !== 0) return `${where}: the mask is scaled with the scores`;
      const read = node.is('Add') ? addedMask(node, shapes) : whereMask(node, shapes);
      if (typeof read === 'string') return read;
      ({ mask, scores: at } = read);
    } else if (node.is('Tanh') && softcap === 0) {
      softcap = scale;
      at = node.input(0);
    } else if (node.is('Cast') || node.is('Identity')) {
      at = node.input(0);
    } else return `${where} stands between scores and Softmax`;
  }
  return 'no product of queries and keys is in front of its Softmax';
}

type MaskRead = { mask: NonNullable<CachedAttention['mask']>; scores: Value | undefined } | string;

function addedMask(node: Node, shapes: Shapes): MaskRead {
  const [a, b] = [node.input(0), node.input(1)];
  const [scores, value] = leadsToProduct(a) ? [a, b] : [b, a];
  if (!value || shapes.dims(value)?.length !== 4) return `the mask in Add "${node.name}" has no known rank of 4`;
  return { mask: { kind: 'added', value }, scores };
}

function whereMask(node: Node, shapes: Shapes): MaskRead {
  const [condition, scores, lowest] = node.inputs;
  const lowestScore = scalarOf(lowest);
  if (!condition || lowestScore === undefined || !leadsToProduct(scores))
    return `Where "${node.name}" does not choose between scores and one number`;
  if (shapes.dims(condition)?.length !== 4) return `the mask in Where "${node.name}" has no known rank of 4`;
  return { mask: { kind: 'where', value: condition, lowest: lowestScore }, scores };
}

function leadsToProduct(value: Value | undefined, depth = 6): boolean {
  const node = value?.producer;
  if (!node || depth === 0) return false;
  if (node.is('MatMul')) return true;
  return /^(Mul|Div|Add|Where|Cast|Tanh|Identity)$/.test(node.opType)
    ? node.inputs.some((input) => leadsToProduct(input, depth - 1))
    : false;
}

function putTogether(product: Node, scores: Scores, values: HeadPath, shapes: Shapes): Found {
  const { scale, softcap, mask } = scores;
  const queries = followHeads(scores.product.input(0), shapes);
  const keys = followHeads(scores.product.input(1), shapes);
  if (typeof queries === 'string') return queries;
  if (typeof keys === 'string') return keys;
  if (!keys.swapped || queries.swapped || values.swapped)
    return 'heads are not laid out as batch, head, token, channel';
  const y = outputRows(product);
  // What a query sees is in the mask.
  const seen = { ...(mask ? { mask } : {}), causal: false, window: 0 };
  return assemble({ queries, keys, values, readers: [scores.product, product], y, scale, softcap, ...seen }, shapes);
}
