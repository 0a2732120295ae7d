/** Finds every linear layer: a product with a constant matrix, with its bias and its regrouping Reshapes. */
import { attrFloat, attrInt, type Graph, type Node, type Tensor, type Value } from '../ir/index.js';
import type { Dims, Shapes } from './shapes.js';
import { sameDims } from './shapes.js';
import type { LinearSite } from './sites.js';
import { asBias, isConstantExpression, scaled, weightSource } from './weights.js';

/** Fewest input channels for which codes and scales are worth anything. */
const smallestK = 32;

/** Most of them: beyond, the integer sums of s8 products may not fit into int32. */
const largestK = 131072;

/** Types that a rewritten layer can compute in. */
const floatTypes: ReadonlySet<string> = new Set(['float32', 'float16', 'bfloat16']);

const productTypes: ReadonlyMap<string, string> = new Map([
  ['MatMul', ''],
  ['Gemm', ''],
  ['FusedMatMul', 'com.microsoft'],
  ['FusedGemm', 'com.microsoft'],
  ['MatMulNBits', 'com.microsoft'],
  ['MatMulInteger', ''],
  ['QLinearMatMul', ''],
  ['Attention', 'com.microsoft'],
]);

/** All linear layers of a graph in node order; those that cannot be quantized carry the reason. Roles are filled in later. */
export function findLinears(graph: Graph, shapes: Shapes): LinearSite[] {
  const sites: LinearSite[] = [];
  // One memory for the whole graph: in node order no question goes deep.
  const known = new Map<Value, boolean>();
  const isConstant = (value: Value | undefined) => isConstantExpression(value, known);
  // Layers that lead nowhere are none: nothing of them is left in a rewritten model.
  const unused = graph.unusedNodes();
  for (const node of graph.nodes) {
    if (productTypes.get(node.opType) !== node.domain || unused.has(node)) continue;
    const site = linearAt(node, shapes, isConstant);
    if (site) sites.push(site);
  }
  return sites;
}

function linearAt(
  node: Node,
  shapes: Shapes,
  isConstant: (value: Value | undefined) => boolean,
): LinearSite | undefined {
  const x = node.input(0);
  const product = node.output(0);
  if (!x || !product) return undefined;
  const base = { name: node.name || product.name, node, graph: node.graph, role: 'other' as const };
  const leave = (reason: string, K = 0, N = 0): LinearSite => ({
    ...base,
    ...{
      x,
      y: product,
      weight: empty,
      weightValue: undefined,
      layout: 'KN',
      K,
      N,
      nodes: [node],
      quantizable: false,
      reason,
    },
  });

  if (node.is('MatMulNBits', 'com.microsoft'))
    return leave(
      `already quantized to ${attrInt(node, 'bits', 4)} bits by MatMulNBits`,
      attrInt(node, 'K', 0),
      attrInt(node, 'N', 0),
    );
  if (node.is('MatMulInteger') || node.is('QLinearMatMul')) return leave(`already quantized by ${node.opType}`);

  if (node.opType === 'Attention')
    return leave('its weight is inside com.microsoft Attention, expected a product of its own');

  const source = weightSource(node.input(1));
  if (!source.ok) {
    if (weightSource(x).ok) return leave('the constant is the left operand, expected x · W');
    if (isConstant(x)) return undefined;
    // A product of two activations is attention, not a layer.
    const constant = isConstant(node.input(1)) || node.input(1)?.initializer !== undefined;
    return constant ? leave(source.reason) : undefined;
  }
  if (isConstant(x)) return leave('both operands are constant');
  if (node.opType === 'FusedGemm') return leave('FusedGemm also applies an activation');
  if (attrInt(node, 'transA', 0) !== 0) return leave(`${node.opType} transposes its left operand (transA)`);
  if (attrInt(node, 'transBatchA', 0) || attrInt(node, 'transBatchB', 0))
    return leave('FusedMatMul transposes batch axes');

  const transposed = source.transposed !== (attrInt(node, 'transB', 0) !== 0);
  const [rows, columns] = source.tensor.dims as [number, number];
  const [K, N] = transposed ? [columns, rows] : [rows, columns];
  if (K < smallestK) return leave(`${K} input channels, expected at least ${smallestK}`, K, N);
  if (K > largestK) return leave(`${K} input channels, expected at most ${largestK}`, K, N);
  if (N < 1) return leave(`${N} output channels, expected at least 1`, K, N);
  const type = shapes.dtype(x);
  if (type !== undefined && !floatTypes.has(type))
    return leave(`computes in ${type}, expected float32, float16 or bfloat16`, K, N);
  if (shapes.dims(x)?.length === 1) return leave('its input has one dimension, expected rows', K, N);

  const own = ownBias(node, N);
  if (typeof own === 'string') return leave(own, K, N);
  const added = own ? { y: product, nodes: [] } : addedBias(product, N);
  const bias = own ?? added.bias;
  const view = unview(x, added.y, N, shapes);
  return {
    ...base,
    x: view.x,
    y: view.y,
    weight: scaled(source.tensor, attrFloat(node, 'alpha', 1)),
    weightValue: source.owner,
    layout: transposed ? 'NK' : 'KN',
    K,
    N,
    ...(bias ? { bias } : {}),
    nodes: [node, ...added.nodes, ...view.nodes],
    quantizable: true,
  };
}

const empty: Tensor = { dtype: 'float32', dims: [0, 0], byteLength: 0, bytes: () => new Uint8Array() };

/** Gemm's third input as a bias, or the reason why it is none. */
function ownBias(node: Node, N: number): Tensor | string | undefined {
  const c = node.opType === 'Gemm' ? node.input(2) : undefined;
  const beta = attrFloat(node, 'beta', 1);
  if (!c || beta === 0) return undefined;
  const bias = asBias(c, N);
  return bias ? scaled(bias, beta) : `Gemm adds "${c.name}", expected a constant of ${N} channels`;
}

/** The bias Add behind a product, on either side of which the constant may stand. */
function addedBias(product: Value, N: number): { y: Value; bias?: Tensor; nodes: Node[] } {
  const add = onlyUser(product);
  const y = add?.output(0);
  if (!add?.is('Add') || !y || add.graph !== product.graph) return { y: product, nodes: [] };
  const other = add.input(0) === product ? add.input(1) : add.input(0);
  const bias = other === product ? undefined : asBias(other, N);
  return bias ? { y, bias, nodes: [add] } : { y: product, nodes: [] };
}

/** The one node that uses a value once, if there is one and no caller sees the value. */
function onlyUser(value: Value): Node | undefined {
  return value.uses.length === 1 && !value.isGraphOutput ? value.uses[0]!.node : undefined;
}

/**
 * Exporters flatten `[B, S, K]` to `[B·S, K]` in front of Gemm and bring the result back: if it certainly comes back to the same rows,
 * the layer is one of `[B, S, K]` and both Reshapes fall away.
 */
function unview(x: Value, y: Value, N: number, shapes: Shapes): { x: Value; y: Value; nodes: Node[] } {
  const stay = { x, y, nodes: [] };
  const before = x.producer;
  const after = onlyUser(y);
  const inner = before?.is('Reshape') ? before.input(0) : undefined;
  const outer = after?.is('Reshape') && after.input(0) === y ? after.output(0) : undefined;
  if (!inner || !outer || inner.constant()) return stay;
  const rows: Dims | undefined = shapes.dims(inner)?.slice(0, -1);
  if (!rows || shapes.lastDim(inner) === undefined || shapes.lastDim(inner) !== shapes.lastDim(x)) return stay;
  return sameDims([...rows, N], shapes.dims(outer)) ? { x: inner, y: outer, nodes: [before!, after!] } : stay;
}

/** The value whose rows these are: behind Identity and Reshapes that flatten all axes but the last. */
export function rowSource(value: Value, shapes: Shapes): Value {
  let at = value;
  for (;;) {
    const node = at.producer;
    const inner = node?.input(0);
    if (!node || !inner || node.graph !== value.graph || inner.constant()) return at;
    const flattens =
      node.is('Reshape') &&
      shapes.dims(at)?.length === 2 &&
      shapes.lastDim(inner) !== undefined &&
      shapes.lastDim(inner) === shapes.lastDim(at);
    if (!flattens && !node.is('Identity')) return at;
    at = inner;
  }
}
