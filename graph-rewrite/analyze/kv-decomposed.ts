/** The cache of attention made of plain nodes: Softmax(q · kᵀ + mask) · v with Concat(past, new) in front. */
import { attrInt, type Node, type Value } from '../ir/index.js';
import { scalarOf } from '../match/constants.js';
import { probabilityProduct } from './attention.js';
import { assembleEither } from './kv-assemble.js';
import { followHeads, outputRows, scalarFactor, type HeadPath } from './kv-heads.js';
import { hidden } from './kv-mask.js';
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
  if (!readsCache(product.input(1))) return { found: noCache, hasCache: false };
  const found =
    typeof scores === 'string' ? scores : (changed(softmax, product) ?? putTogether(product, scores, shapes));
  return { found, hasCache: true };
}

/** What changes probabilities on their way to the product; rows without any key (NaN) may become zeros. */
function changed(softmax: Node, product: Node): string | undefined {
  for (let at = product.input(0); at?.producer && at.producer !== softmax;) {
    const node: Node = at.producer;
    const zeroed = node.is('Where') && node.input(0)?.producer?.is('IsNaN');
    if (!zeroed && !/^(Cast|Dropout|Identity)$/.test(node.opType))
      return `${node.opType} "${node.name}" changes the probabilities`;
    at = node.input(zeroed ? 2 : 0);
  }
  return undefined;
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
  const opset = softmax.graph.model.opsetImports.get('') ?? 0;
  const axis = attrInt(softmax, 'axis', opset < 13 ? 1 : -1);
  if (axis !== -1 && axis !== 3) return `Softmax "${softmax.name}" is not over the last axis`;
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
  const axes = missingAxes(value, shapes);
  if (!value || !axes) return `the mask in Add "${node.name}" has no known rank up to 4`;
  return { mask: { kind: 'added', value, axes }, scores };
}

function whereMask(node: Node, shapes: Shapes): MaskRead {
  const [condition, yes, no] = node.inputs;
  const hides = scalarOf(yes) !== undefined;
  const [scores, lowest] = hides ? [no, scalarOf(yes)] : [yes, scalarOf(no)];
  if (!condition || lowest === undefined || !leadsToProduct(scores))
    return `Where "${node.name}" does not choose between scores and one number`;
  // The operator adds masks: what remains of a score must not matter.
  if (lowest > hidden) return `Where "${node.name}" puts ${lowest} in place of scores, expected at most ${hidden}`;
  const axes = missingAxes(condition, shapes);
  if (!axes) return `the mask in Where "${node.name}" has no known rank up to 4`;
  return { mask: { kind: 'where', value: condition, lowest, axes, ...(hides ? { hides } : {}) }, scores };
}

/** The axes of size 1 that broadcasting puts in front. */
function missingAxes(mask: Value | undefined, shapes: Shapes): number[] | undefined {
  const rank = shapes.dims(mask)?.length;
  return rank === undefined || rank > 4 || rank < 2 ? undefined : Array.from({ length: 4 - rank }, (_, axis) => axis);
}

function leadsToProduct(value: Value | undefined, depth = 6): boolean {
  const node = value?.producer;
  if (!node || depth === 0) return false;
  if (node.is('MatMul')) return true;
  return /^(Mul|Div|Add|Where|Cast|Tanh|Identity)$/.test(node.opType)
    ? node.inputs.some((input) => leadsToProduct(input, depth - 1))
    : false;
}

function putTogether(product: Node, scores: Scores, shapes: Shapes): Found {
  const { scale, softcap, mask } = scores;
  const y = outputRows(product);
  return assembleEither((rotations) => {
    const [queries, keys, values] = [scores.product.input(0), scores.product.input(1), product.input(1)].map((end, i) =>
      followHeads(end, { shapes, joins: i > 0, rotations }),
    ) as [HeadPath | string, HeadPath | string, HeadPath | string];
    if (typeof values === 'string') return values;
    if (typeof queries === 'string') return queries;
    if (typeof keys === 'string') return keys;
    if (!keys.swapped || queries.swapped || values.swapped)
      return 'heads are not laid out as batch, head, token, channel';
    // What a query sees is in the mask.
    const seen = { ...(mask ? { mask } : {}), causal: false, window: 0 };
    return { queries, keys, values, readers: [scores.product, product], y, scale, softcap, ...seen };
  }, shapes);
}
