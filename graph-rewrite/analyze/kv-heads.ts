/** The way from the rows of a layer to the heads that attention multiplies, and back. */
import { attrInts, attrInt, type Node, type Value } from '../ir/index.js';
import { scalarOf } from '../match/constants.js';
import { matchRotation, readRotaryEmbedding, type Rotation } from './kv-rotation.js';
import type { Shapes } from './shapes.js';
import type { CacheTensor, RowLayout } from './sites.js';

/** Mul or Div by a number. */
export function scalarFactor(node: Node): { x: Value; factor: number } | undefined {
  if (!node.is('Mul') && !node.is('Div')) return undefined;
  const [a, b] = [node.input(0), node.input(1)];
  const right = scalarOf(b);
  if (right !== undefined && a) return { x: a, factor: node.is('Mul') ? right : 1 / right };
  const left = scalarOf(a);
  return left !== undefined && b && node.is('Mul') ? { x: b, factor: left } : undefined;
}

/** What lies between the rows of a layer and a product: heads taken apart, scaled, rotated, joined to a cache, repeated. */
export interface HeadPath {
  /** Where it ends: what is multiplied. */
  readonly end: Value;
  readonly rows: Value;
  readonly layout: RowLayout;
  readonly scale: number;
  /** The part of `scale` that is multiplied behind the cache. */
  readonly read: number;
  readonly rotation?: Rotation | undefined;
  readonly cache?: CacheTensor | undefined;
  readonly swapped: boolean;
  readonly nodes: ReadonlySet<Node>;
}

/** Nodes that repeat heads for the queries that share them, or move them about for that; `repeatsHeads` checks what they do. */
const repeaters = /^(Reshape|Unsqueeze|Expand|Tile|Gather|Concat|Identity)$/;

export interface Follow {
  readonly shapes: Shapes;
  /** Whether a cache is joined on the way. */
  readonly joins: boolean;
  /** Whether rotations are taken over; otherwise they stay where they are. */
  readonly rotations: boolean;
}

/**
 * Follows heads back, through the cache if there is one, to the rows of a layer; or to the first value whose making is not understood:
 * that stays in the graph.
 */
export function followHeads(end: Value | undefined, { shapes, joins, rotations }: Follow): HeadPath | string {
  if (!end) return 'an input is missing';
  const nodes = new Set<Node>();
  let at = end;
  let scale = 1;
  let rotation: Rotation | undefined;
  /** Of what is read from the cache. */
  let read = 1;
  let cache: CacheTensor | undefined;
  let swapped = false;
  let split = false;
  let reshaped = false;
  // Where the path can end if it goes no further: until heads are reshaped, their layout is certain.
  let stop: HeadPath | undefined;
  const path = (rows: Value, layout: RowLayout) => ({
    end,
    rows,
    layout,
    scale,
    read,
    rotation,
    cache,
    swapped,
    nodes,
  });
  for (let hops = 0; hops < 24; hops++) {
    if (split && shapes.dims(at)?.length === 3) {
      const turned = rotation || !rotations ? undefined : rotationOfRows(at, shapes);
      for (const each of turned?.nodes ?? []) nodes.add(each);
      return { ...path(turned?.x ?? at, 'rows'), rotation: rotation ?? turned };
    }
    const reading = joins && !cache;
    if (!reading && !reshaped) stop = path(at, split ? 'wide' : 'heads');
    const node: Node | undefined = at.producer;
    if (!node) return stop ?? `"${at.name}" comes from no node`;
    const where = `${node.opType} "${node.name}"`;
    const factor = scalarFactor(node);
    const perm = node.is('Transpose') ? attrInts(node, 'perm', []).join() : '';
    const joined = reading ? cacheJoin(node, at) : undefined;
    const turned = rotation || !rotations ? undefined : rotationOf(node, shapes);
    if (typeof joined === 'string') return joined;
    let next: Value | undefined;
    if (factor) {
      scale *= factor.factor;
      next = factor.x;
    } else if (perm === '0,2,1,3' && !split && !reading) {
      split = true;
      next = node.input(0);
    } else if (perm === '0,1,3,2' && !swapped && reading) {
      swapped = true;
      next = node.input(0);
    } else if (joined) {
      cache = joined.cache;
      read = scale;
      next = joined.fresh;
    } else if (turned) {
      rotation = turned;
      for (const each of turned.nodes) nodes.add(each);
      next = turned.x;
    } else if (node.domain === '' && (reading ? repeaters : /^(Reshape|Identity)$/).test(node.opType)) {
      reshaped = !reading;
      next = node.input(0);
    }
    if (!next) return stop ?? `${where} ${perm ? `has perm ${perm}` : 'stands between a layer and its heads'}`;
    nodes.add(node);
    at = next;
  }
  return stop ?? 'heads do not come from rows of a layer';
}

/** How many heads a value has; undefined if that is not known. */
export function headsOf(value: Value, layout: RowLayout, shapes: Shapes, headSize: number): number | undefined {
  const count = shapes.dims(value)?.[layout === 'heads' ? 1 : 2];
  return typeof count !== 'number' ? undefined : layout === 'rows' ? count / headSize : count;
}

/** A Concat of a cache input and new tokens that gives a cache output; a reason if it is not quite that. */
function cacheJoin(node: Node, joined: Value): { cache: CacheTensor; fresh: Value } | string | undefined {
  const [read, fresh] = node.inputs;
  const past = read && original(read);
  if (!node.is('Concat') || !read || !past?.isGraphInput) return undefined;
  const where = `${node.opType} "${node.name}"`;
  const axis = attrInt(node, 'axis', 0);
  if (node.inputs.length !== 2 || !fresh || (axis !== 2 && axis !== -2))
    return `${where} joins more than a cache and new tokens`;
  if (!joined.isGraphOutput) return `the cache at ${where} is not an input and an output`;
  return { cache: { past, present: joined, ...(read === past ? {} : { copy: read }) }, fresh };
}

function rotationOf(node: Node, shapes: Shapes): Rotation | undefined {
  if (node.is('Add')) return matchRotation(node, shapes);
  return node.opType === 'RotaryEmbedding' ? readRotaryEmbedding(node, shapes) : undefined;
}

/** Likewise for operators that take rows `[B, S, heads · head size]`, perhaps rotated, or put together from heads again. */
export function followRows(value: Value | undefined, follow: Follow): HeadPath | string {
  const node = value?.producer;
  if (!value || !node) return value ? plainRows(value) : 'an input is missing';
  if (node.is('Reshape') && node.input(0)?.producer?.is('Transpose')) {
    const transpose = node.input(0)!.producer!;
    const path = followHeads(transpose.input(0), follow);
    if (attrInts(transpose, 'perm', []).join() !== '0,2,1,3' || typeof path === 'string') return path;
    return { ...path, end: value, nodes: new Set([...path.nodes, node, transpose]) };
  }
  const rotation = follow.rotations ? rotationOfRows(value, follow.shapes) : undefined;
  const plain = { ...plainRows(rotation?.x ?? value), end: value };
  return rotation ? { ...plain, rotation, nodes: new Set(rotation.nodes) } : plain;
}

/** RoPE of rows in which heads lie side by side. */
function rotationOfRows(rows: Value, shapes: Shapes): Rotation | undefined {
  const node = rows.producer;
  return node?.opType === 'RotaryEmbedding' ? readRotaryEmbedding(node, shapes) : undefined;
}

const plainRows = (rows: Value): HeadPath => ({
  ...{ end: rows, rows, layout: 'rows', scale: 1, read: 1 },
  ...{ swapped: false, nodes: new Set() },
});

/** What a value is a copy of: through Identity, and Concat of one input. */
function original(value: Value): Value {
  let at = value;
  while (at.producer && (at.producer.is('Identity') || (at.producer.is('Concat') && at.producer.inputs.length === 1)))
    at = at.producer.input(0)!;
  return at;
}

/** The rows that Transpose 0,2,1,3 and Reshape make of a node's heads. */
export function outputRows(node: Node): Value | undefined {
  const only = (value: Value | undefined) => {
    const users = value?.uses.filter(({ node }) => !node.is('Shape')) ?? [];
    return users.length === 1 ? users[0]!.node : undefined;
  };
  const transpose = only(node.output(0));
  if (!transpose?.is('Transpose') || attrInts(transpose, 'perm', []).join() !== '0,2,1,3') return undefined;
  const reshape = only(transpose.output(0));
  return reshape?.is('Reshape') ? reshape.output(0) : undefined;
}
