/** The cache of attention made of plain nodes: Softmax(q · kᵀ + mask) · v with Concat(past, new) in front. */
import { attrInt, attrInts, type Node, type Value } from '../ir/index.js';
import { integersOf, scalarOf } from '../match/constants.js';
import { probabilityProduct } from './attention.js';
import { matchRotation, readRotaryEmbedding, sameRotation, sourceOfAngles, type Rotation } from './kv-rotation.js';
import type { Shapes } from './shapes.js';
import type { Angles, AttentionSite, CachedAttention, CacheTensor } from './sites.js';

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
  return { found: typeof scores === 'string' ? scores : assemble(product, scores, values, shapes), hasCache: true };
}

export const noCache = 'it keeps no cache';

/** Whether a cache input is not far behind a value. */
function readsCache(value: Value | undefined, depth = 12): boolean {
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
  if (!condition || !lowest || scalarOf(lowest) === undefined || !leadsToProduct(scores))
    return `Where "${node.name}" does not choose between scores and one number`;
  if (shapes.dims(condition)?.length !== 4) return `the mask in Where "${node.name}" has no known rank of 4`;
  return { mask: { kind: 'where', condition, lowest }, scores };
}

function leadsToProduct(value: Value | undefined, depth = 6): boolean {
  const node = value?.producer;
  if (!node || depth === 0) return false;
  if (node.is('MatMul')) return true;
  return /^(Mul|Div|Add|Where|Cast|Tanh|Identity)$/.test(node.opType)
    ? node.inputs.some((input) => leadsToProduct(input, depth - 1))
    : false;
}

/** Mul or Div by a number. */
function scalarFactor(node: Node): { x: Value; factor: number } | undefined {
  if (!node.is('Mul') && !node.is('Div')) return undefined;
  const [a, b] = [node.input(0), node.input(1)];
  const right = scalarOf(b);
  if (right !== undefined && a) return { x: a, factor: node.is('Mul') ? right : 1 / right };
  const left = scalarOf(a);
  return left !== undefined && b && node.is('Mul') ? { x: b, factor: left } : undefined;
}

/** What lies between the rows of a layer and a product: heads taken apart, scaled, rotated, joined to a cache, repeated. */
interface HeadPath {
  /** `[B, S, heads · head size]`. */
  readonly rows: Value;
  readonly scale: number;
  readonly rotation?: Rotation | undefined;
  readonly cache?: CacheTensor | undefined;
  readonly swapped: boolean;
  readonly nodes: ReadonlySet<Node>;
}

function followHeads(value: Value | undefined, shapes: Shapes): HeadPath | string {
  const nodes = new Set<Node>();
  let at = value;
  let scale = 1;
  let rotation: Rotation | undefined;
  let cache: CacheTensor | undefined;
  let swapped = false;
  let split = false;
  for (let hops = 0; at && hops < 24; hops++) {
    if (split && shapes.dims(at)?.length === 3) return { rows: at, scale, rotation, cache, swapped, nodes };
    const node: Node | undefined = at.producer;
    if (!node) return `"${at.name}" comes from no node`;
    nodes.add(node);
    const where = `${node.opType} "${node.name}"`;
    const factor = scalarFactor(node);
    if (factor) {
      scale *= factor.factor;
      at = factor.x;
    } else if (node.is('Transpose')) {
      const perm = attrInts(node, 'perm', []).join();
      if (perm === '0,2,1,3' && !split) split = true;
      else if (perm === '0,1,3,2' && !swapped && !split && !cache) swapped = true;
      else return `${where} has perm ${perm}`;
      at = node.input(0);
    } else if (node.is('Concat')) {
      const [read, fresh] = node.inputs;
      const past = read && original(read);
      const axis = attrInt(node, 'axis', 0);
      if (cache || node.inputs.length !== 2 || (axis !== 2 && axis !== -2) || split)
        return `${where} joins more than a cache and new tokens`;
      if (!past?.isGraphInput || !at.isGraphOutput) return `the cache at ${where} is not an input and an output`;
      cache = { past, present: at, ...(read === past ? {} : { copy: read! }) };
      at = fresh;
    } else if (node.is('Add') || node.is('RotaryEmbedding')) {
      const read = node.is('Add') ? matchRotation : readRotaryEmbedding;
      rotation = rotation ? undefined : read(node, shapes);
      if (!rotation) return `${where} is no RoPE of whole heads`;
      for (const each of rotation.nodes) nodes.add(each);
      at = rotation.x;
    } else if (node.is('Unsqueeze') && shapes.dims(node.input(0))?.length === 4) {
      if (integersOf(node.input(1))?.[0] !== 2) return `${where} repeats heads along another axis than 2`;
      at = node.input(0);
    } else if (/^(Reshape|Expand|Identity)$/.test(node.opType) && node.domain === '') {
      at = node.input(0);
    } else return `${where} stands between a layer and its heads`;
  }
  return 'heads do not come from rows of a layer';
}

function assemble(product: Node, scores: Scores, values: HeadPath, shapes: Shapes): Found {
  const queries = followHeads(scores.product.input(0), shapes);
  const keys = followHeads(scores.product.input(1), shapes);
  if (typeof queries === 'string') return queries;
  if (typeof keys === 'string') return keys;
  if (!keys.cache) return 'keys have no cache';
  if (queries.cache) return 'queries have a cache';
  if (!keys.swapped || queries.swapped || values.swapped)
    return 'heads are not laid out as batch, head, token, channel';
  const y = outputRows(product);
  const rank = shapes.dims(y)?.length;
  if (!y || (rank !== 2 && rank !== 3)) return 'the output is not put together by Transpose 0,2,1,3 and Reshape';
  const [kvHeads, headSize] = [keys.cache.past.shape?.[1], keys.cache.past.shape?.[3]];
  const width = shapes.lastDim(queries.rows);
  if (typeof kvHeads !== 'number' || typeof headSize !== 'number' || !width) return 'the size of a head is not known';
  const stray = strayUser(values.cache!, values.nodes, product) ?? strayUser(keys.cache, keys.nodes, scores.product);
  if (stray) return stray;
  const angles = sharedAngles(queries.rotation, keys.rotation, values.rotation);
  if (typeof angles === 'string') return angles;
  return {
    ...{ kvHeads, headSize, heads: width / headSize },
    ...{ q: queries.rows, k: keys.rows, v: values.rows, y },
    ...{ key: keys.cache, value: values.cache! },
    rotary: angles ? keys.rotation!.kind : 'none',
    ...(angles ? { angles } : {}),
    ...(scores.mask ? { mask: scores.mask } : {}),
    scale: scores.scale * queries.scale * keys.scale,
    softcap: scores.softcap,
    causal: false, // what a query sees is in the mask
    window: 0,
  };
}

function sharedAngles(
  queries: Rotation | undefined,
  keys: Rotation | undefined,
  values: Rotation | undefined,
): Angles | string | undefined {
  if (values) return 'values are rotated';
  if (!queries && !keys) return undefined;
  if (!queries || !keys || !sameRotation(queries, keys)) return 'queries and keys are rotated differently';
  return sourceOfAngles(keys);
}

/** What a value is a copy of: through Identity, and Concat of one input. */
function original(value: Value): Value {
  let at = value;
  while (at.producer && (at.producer.is('Identity') || (at.producer.is('Concat') && at.producer.inputs.length === 1)))
    at = at.producer.input(0)!;
  return at;
}

/** Transpose 0,2,1,3 and Reshape after the product. */
function outputRows(product: Node): Value | undefined {
  const only = (value: Value | undefined) => {
    const users = value?.uses.filter(({ node }) => !node.is('Shape')) ?? [];
    return users.length === 1 ? users[0]!.node : undefined;
  };
  const transpose = only(product.output(0));
  if (!transpose?.is('Transpose') || attrInts(transpose, 'perm', []).join() !== '0,2,1,3') return undefined;
  const reshape = only(transpose.output(0));
  return reshape?.is('Reshape') ? reshape.output(0) : undefined;
}

/** Others that read the float cache would read codes. */
function strayUser({ past, present, copy }: CacheTensor, nodes: ReadonlySet<Node>, reader: Node): string | undefined {
  const stray = [...past.uses, ...present.uses, ...(copy?.uses ?? [])].find(
    ({ node }) => node !== reader && node !== copy?.producer && !nodes.has(node) && !node.is('Shape'),
  );
  return stray && `the cache is also read by ${stray.node.opType} "${stray.node.name}"`;
}
