/** The way from the rows of a layer to the heads that attention multiplies, and back. */
import { attrInts, attrInt, type Node, type Value } from '../ir/index.js';
import { integersOf, scalarOf } from '../match/constants.js';
import { matchRotation, readRotaryEmbedding, type Rotation } from './kv-rotation.js';
import type { Shapes } from './shapes.js';
import type { CacheTensor } from './sites.js';

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
  /** `[B, S, heads · head size]`. */
  readonly rows: Value;
  readonly scale: number;
  readonly rotation?: Rotation | undefined;
  readonly cache?: CacheTensor | undefined;
  readonly swapped: boolean;
  readonly nodes: ReadonlySet<Node>;
}

export function followHeads(value: Value | undefined, shapes: Shapes): HeadPath | string {
  const nodes = new Set<Node>();
  let at = value;
  let scale = 1;
  let rotation: Rotation | undefined;
  let cache: CacheTensor | undefined;
  let swapped = false;
  let split = false;
  for (let hops = 0; at && hops < 24; hops++) {
    if (split && shapes.dims(at)?.length === 3) {
      const turned = rotation ? undefined : rotationOfRows(at, shapes);
      for (const each of turned?.nodes ?? []) nodes.add(each);
      return { rows: turned?.x ?? at, scale, rotation: rotation ?? turned, cache, swapped, nodes };
    }
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
    } else if (node.is('Add') || node.opType === 'RotaryEmbedding') {
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

/** Likewise for operators that take rows `[B, S, heads · head size]`, perhaps rotated, or put together from heads again. */
export function followRows(value: Value | undefined, shapes: Shapes): HeadPath | string {
  const node = value?.producer;
  if (!value || !node) return value ? plainRows(value) : 'an input is missing';
  if (node.is('Reshape') && node.input(0)?.producer?.is('Transpose')) {
    const transpose = node.input(0)!.producer!;
    const path = followHeads(transpose.input(0), shapes);
    if (attrInts(transpose, 'perm', []).join() !== '0,2,1,3' || typeof path === 'string') return path;
    return { ...path, nodes: new Set([...path.nodes, node, transpose]) };
  }
  const rotation = rotationOfRows(value, shapes);
  return rotation ? { ...plainRows(rotation.x), rotation, nodes: new Set(rotation.nodes) } : plainRows(value);
}

/** RoPE of rows in which heads lie side by side. */
function rotationOfRows(rows: Value, shapes: Shapes): Rotation | undefined {
  const node = rows.producer;
  return node?.opType === 'RotaryEmbedding' ? readRotaryEmbedding(node, shapes) : undefined;
}

const plainRows = (rows: Value): HeadPath => ({ rows, scale: 1, swapped: false, nodes: new Set() });

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
