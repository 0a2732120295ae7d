/** Attention: which layers make its queries, keys and values, which one reads its output, and how heads lie in the channels. */
import { attrInt, attrInts, type Graph, type Node, type Value } from '../ir/index.js';
import { integersOf } from '../match/constants.js';
import { rowSource } from './linears.js';
import type { Shapes } from './shapes.js';
import type { AttentionSite, LinearSite, OperatorForm } from './sites.js';

/** Layers by the value they produce and by the rows they read. */
export interface LinearIndex {
  readonly byOutput: ReadonlyMap<Value, LinearSite>;
  readonly byInput: ReadonlyMap<Value, readonly LinearSite[]>;
}

export function indexLinears(linears: readonly LinearSite[], shapes: Shapes): LinearIndex {
  const byInput = new Map<Value, LinearSite[]>();
  for (const site of linears) {
    for (const x of new Set([site.x, rowSource(site.x, shapes)])) byInput.set(x, [...(byInput.get(x) ?? []), site]);
  }
  return { byOutput: new Map(linears.map((site) => [site.y, site])), byInput };
}

const operatorForms: ReadonlyMap<string, OperatorForm> = new Map([
  ['com.microsoft:GroupQueryAttention', 'GroupQueryAttention'],
  ['com.microsoft:MultiHeadAttention', 'MultiHeadAttention'],
  ['com.microsoft:Attention', 'PackedAttention'],
  [':Attention', 'Attention'],
]);

/** All attention blocks of a graph, as operators or taken apart. */
export function findAttentions(graph: Graph, index: LinearIndex, shapes: Shapes): AttentionSite[] {
  return graph.nodes.flatMap((node) => {
    const form = operatorForms.get(`${node.domain}:${node.opType}`);
    if (form === 'PackedAttention') return packedAttention(node, index);
    if (form) return operatorAttention(node, form, index, shapes);
    return node.is('Softmax') ? (decomposedAttention(node, index, shapes) ?? []) : [];
  });
}

/** Layers found backwards from a value, not looking behind them. */
export function linearsBehind(value: Value | undefined, index: LinearIndex, limit = 400): LinearSite[] {
  const found = new Set<LinearSite>();
  const seen = new Set<Value>();
  const queue = value ? [value] : [];
  for (let at = queue.pop(); at && seen.size < limit; at = queue.pop()) {
    if (seen.has(at)) continue;
    seen.add(at);
    const site = index.byOutput.get(at);
    if (site) found.add(site);
    // Sizes are no data: what they come from says nothing about who computes the values.
    else if (at.producer && !at.producer.is('Shape'))
      for (const input of at.producer.inputs) if (input) queue.push(input);
  }
  return [...found];
}

function only(sites: readonly LinearSite[]): LinearSite | undefined {
  return sites.length === 1 ? sites[0] : undefined;
}

/** Attention that makes q, k and v itself: what it reads comes from another block. */
function packedAttention(node: Node, index: LinearIndex): AttentionSite {
  const o = readerOf(node.output(0)!, index);
  const headOrderReason = `Attention "${node.name}" has the weights of q, k and v inside`;
  return {
    name: node.name || node.output(0)!.name,
    node,
    graph: node.graph,
    form: 'PackedAttention',
    ...given({ o }),
    headOrderReason,
  };
}

function operatorAttention(node: Node, form: OperatorForm, index: LinearIndex, shapes: Shapes): AttentionSite {
  const y = node.output(0);
  const [q, k, v] = [0, 1, 2].map((i) => only(linearsBehind(node.input(i), index)));
  const heads = attrInt(node, form === 'Attention' ? 'q_num_heads' : 'num_heads', 0);
  const kvHeads = attrInt(node, 'kv_num_heads', form === 'MultiHeadAttention' ? heads : 0);
  const packed = node.input(1) === undefined;
  const value = packed ? q : v;
  const o = y && readerOf(y, index);
  const width = shapes.lastDim(node.input(0));
  const rank = shapes.dims(node.input(0))?.length;
  const headSize = heads && width ? (rank === 4 ? width : width / (packed ? heads + 2 * kvHeads : heads)) : undefined;
  const direct = packed
    ? q?.y === node.input(0)
    : rank === 3 && value !== undefined && rowSource(node.input(2)!, shapes) === value.y;
  const headOrderReason = !value
    ? 'the layer that makes values is not known'
    : !o
      ? 'the layer that reads the output is not known'
      : !headSize || !kvHeads
        ? 'the size of a head is not known'
        : !direct
          ? `values reach ${form} "${node.name}" through other nodes`
          : form === 'MultiHeadAttention' && node.input(3)
            ? `MultiHeadAttention "${node.name}" adds a bias to values`
            : usersOutside(value.y, [node]);
  return {
    name: node.name || y!.name,
    node,
    graph: node.graph,
    form,
    ...given({ q, k: packed ? q : k, v: value, o, headSize, headOrderReason }),
    ...given({ heads: heads || undefined, kvHeads: kvHeads || undefined }),
    ...given({ valueRow: headSize && packed ? (heads + kvHeads) * headSize : headSize ? 0 : undefined }),
  };
}

/** Leaves out what is undefined. */
function given<T extends object>(fields: T): { [K in keyof T]?: Exclude<T[K], undefined> } {
  return Object.fromEntries(Object.entries(fields).filter(([, value]) => value !== undefined)) as never;
}

/** The layer that reads a value, through nodes that only move data. */
function readerOf(value: Value, index: LinearIndex, path: Node[] = []): LinearSite | undefined {
  for (let at: Value | undefined = value, hops = 0; at && hops < 8; hops++) {
    const readers = index.byInput.get(at);
    if (readers) return only(readers);
    const movers: Node[] = at.uses.map((use) => use.node).filter((node) => !node.is('Shape'));
    const next: Node | undefined = movers.length === 1 ? movers[0] : undefined;
    if (!next || !/^(Transpose|Reshape|Identity|Cast|Squeeze)$/.test(next.opType)) return undefined;
    path.push(next);
    at = next.output(0);
  }
  return undefined;
}

function decomposedAttention(softmax: Node, index: LinearIndex, shapes: Shapes): AttentionSite | undefined {
  const product = probabilityProduct(softmax);
  const scores = scoreProduct(softmax, index);
  const y = product?.output(0);
  if (!product || !scores || !y) return undefined;
  const [q, k] = [0, 1].map((i) => only(linearsBehind(scores.input(i), index)));
  const v = only(linearsBehind(product.input(1), index));
  const outPath: Node[] = [];
  const o = readerOf(y, index, outPath);
  if (!q && !k && !v) return undefined;
  const headSize = shapes.lastDim(product.input(1)) ?? shapes.lastDim(y);
  const heads = headSize && o ? o.K / headSize : undefined;
  const values =
    v && headSize && heads ? valuePath(product, v, headSize, heads, shapes) : 'the shape of a head is not known';
  const outReason = o ? outputReason(y, outPath, o) : 'the layer that reads the output is not known';
  const known = typeof values === 'string' ? undefined : values;
  return {
    name: softmax.name || softmax.output(0)!.name,
    node: softmax,
    graph: softmax.graph,
    form: 'decomposed',
    ...given({ q, k, v, o, heads, headSize, kvHeads: known?.kvHeads, valueRow: known?.valueRow }),
    ...given({ headOrderReason: typeof values === 'string' ? values : outReason }),
  };
}

/** MatMul(probabilities, values) after a Softmax, through what may become of probabilities in between. */
export function probabilityProduct(softmax: Node): Node | undefined {
  for (let at = softmax.output(0), hops = 0; at && hops < 6; hops++) {
    const nodes: Node[] = at.uses.map((use) => use.node);
    const product = nodes.find((node) => node.is('MatMul') && node.input(0) === at);
    if (product) return product;
    at = nodes.find((node) => /^(Cast|Where|Dropout|Identity|Mul|Slice)$/.test(node.opType))?.output(0);
  }
  return undefined;
}

/** MatMul(queries, keys) in front of a Softmax, through scale, mask and soft cap. */
function scoreProduct(softmax: Node, index: LinearIndex): Node | undefined {
  const queue = [softmax.input(0)];
  for (let hops = 0; queue.length && hops < 40; hops++) {
    const value = queue.shift();
    const node = value?.producer;
    if (!node || index.byOutput.has(value)) continue;
    if (node.is('MatMul')) return node;
    if (/^(Add|Mul|Div|Sub|Where|Cast|Tanh|Max|Clip|Identity|Concat)$/.test(node.opType)) queue.push(...node.inputs);
  }
  return undefined;
}

/** How values come from their layer: kv heads and first row, or why that is not a plain split into heads. */
function valuePath(
  product: Node,
  v: LinearSite,
  headSize: number,
  heads: number,
  shapes: Shapes,
): { kvHeads: number; valueRow: number } | string {
  let at = product.input(1);
  let user = product;
  let valueRow = 0;
  let rows = v.N;
  for (let hops = 0; at && at !== v.y && hops < 12; hops++) {
    const node: Node | undefined = at.producer;
    if (!node) return `values come from "${at.name}"`;
    // A cache output is stored and fed back in the same order.
    const stray = usersOutside(at, [user], node.is('Concat'));
    if (stray) return stray;
    if (node.is('Concat')) {
      const fresh: (Value | undefined)[] = node.inputs.filter((input) => input && !isPast(input));
      if (fresh.length !== 1) return `Concat "${node.name}" joins more than a cache and new values`;
      user = node;
      at = fresh[0];
      continue;
    }
    if (node.is('Unsqueeze') && node.input(1) && shapes.dims(node.input(0))?.length === 4) {
      const axes = integersOf(node.input(1));
      if (axes?.[0] !== 2) return `Unsqueeze "${node.name}" repeats heads along axis ${axes?.[0]}, expected 2`;
    } else if (node.is('Transpose')) {
      const perm = attrInts(node, 'perm', []);
      if (perm.join() !== '0,2,1,3') return `Transpose "${node.name}" has perm ${perm.join()}, expected 0,2,1,3`;
    } else if (node.is('Split')) {
      const outputs = node.outputs.indexOf(at);
      const sizes = node.outputs.map((output) => shapes.lastDim(output));
      if (sizes.some((size) => size === undefined)) return `Split "${node.name}" has sizes that are not known`;
      valueRow = sizes.slice(0, outputs).reduce<number>((all, size) => all + size!, 0);
      rows = sizes[outputs]!;
    } else if (node.is('Expand') && shapes.dims(node.input(0))?.[2] !== 1) {
      return `Expand "${node.name}" does not repeat heads along axis 2`;
    } else if (!/^(Reshape|Expand|Identity)$/.test(node.opType)) {
      return `values pass through ${node.opType} "${node.name}"`;
    }
    user = node;
    at = node.input(0);
  }
  if (at !== v.y) return 'values do not come straight from their layer';
  const stray = usersOutside(v.y, [user]);
  if (stray) return stray;
  const kvHeads = rows / headSize;
  if (!Number.isInteger(kvHeads) || heads % kvHeads !== 0)
    return `${rows} value channels are not whole heads of ${headSize} shared by ${heads} query heads`;
  return { kvHeads, valueRow };
}

function isPast(value: Value): boolean {
  for (let at: Value | undefined = value, hops = 0; at && hops < 4; hops++) {
    if (at.isGraphInput) return true;
    at = at.producer?.input(0);
  }
  return false;
}

/** Why the output of attention is not just heads side by side in front of its layer. */
function outputReason(y: Value, path: readonly Node[], o: LinearSite): string | undefined {
  const moved = path.filter((node) => node.is('Transpose'));
  const perm = moved[0] ? attrInts(moved[0], 'perm', []).join() : '';
  if (moved.length !== 1 || perm !== '0,2,1,3') return `the output reaches "${o.name}" without a Transpose 0,2,1,3`;
  let at: Value | undefined = y;
  for (const node of path) {
    const stray: string | undefined = at && usersOutside(at, [node]);
    if (stray) return stray;
    at = node.output(0);
  }
  return at && usersOutside(at, [o.node, ...o.nodes]);
}

/** Names a user of the value other than those given (asking for the shape is no use); `isCache`: it may be an output. */
function usersOutside(value: Value, nodes: readonly Node[], isCache = false): string | undefined {
  const stray = value.uses.find(({ node }) => !nodes.includes(node) && !node.is('Shape'))?.node;
  if (stray) return `"${value.name}" is also used by ${stray.opType} "${stray.name}"`;
  return value.isGraphOutput && !isCache ? `"${value.name}" is a graph output` : undefined;
}
