/** RoPE as the operator of opset 23, or made of plain nodes: x · cos + (−second half | first half) · sin. */
import { attrFloat, attrInt, type Node, type Value } from '../ir/index.js';
import type { Shapes } from './shapes.js';
import type { Angles } from './sites.js';

export interface Rotation {
  readonly x: Value;
  readonly kind: 'half' | 'interleaved';
  /** `[…, S, columns]`, without axes of size 1 for heads. */
  readonly cos: Value;
  readonly sin: Value;
  /** The head size where both halves are given, else half of it. */
  readonly columns: number;
  /** Then cos and sin are tables `[positions, columns]` of which these rows are taken. */
  readonly positions?: Value;
  readonly nodes: readonly Node[];
}

/** Reads the rotation that an Add ends; undefined if it is none, or not of whole heads in halves. */
export function matchRotation(add: Node, shapes: Shapes): Rotation | undefined {
  const products = add.inputs.map((input) => input?.producer);
  if (products.length !== 2 || !products.every((node) => node?.is('Mul'))) return undefined;
  for (const [straight, turned] of [products, products.toReversed()] as [Node, Node][]) {
    for (const [i, j] of [
      [0, 1],
      [1, 0],
    ] as const) {
      const half = turnedHalves(turned.input(i), shapes);
      if (!half) continue;
      const at = straight.inputs.indexOf(half.x);
      if (at < 0) continue;
      const [cos, sin] = [straight.input(1 - at), turned.input(j)].map(withoutHeadAxis);
      const nodes = [straight, turned, ...half.nodes];
      if (cos && sin) return { x: half.x, kind: 'half', cos, sin, columns: half.size, nodes };
    }
  }
  return undefined;
}

/** Reads a RotaryEmbedding of ONNX (opset 23) or com.microsoft; undefined if it is not of whole heads in one of the two ways. */
export function readRotaryEmbedding(node: Node, shapes: Shapes): Rotation | undefined {
  const microsoft = node.domain === 'com.microsoft';
  const [x] = node.inputs;
  const [positions, cos, sin] = (microsoft ? [1, 2, 3] : [3, 1, 2]).map((i) => node.input(i));
  const columns = shapes.lastDim(cos);
  if (!x || !cos || !sin || !columns) return undefined;
  if (attrFloat(node, 'scale', 1) !== 1 || attrInt(node, 'is_packed_batching', 0) !== 0) return undefined;
  const turned = attrInt(node, 'rotary_embedding_dim', 0);
  if (turned !== 0 && turned !== 2 * columns) return undefined;
  const kind = attrInt(node, 'interleaved', 0) === 1 ? 'interleaved' : 'half';
  return { x, kind, cos, sin, columns, ...(positions ? { positions } : {}), nodes: [node] };
}

/** Whether two rotations are one: the same angles, perhaps computed twice. */
export function sameRotation(a: Rotation, b: Rotation): boolean {
  const same = sameValue(a.cos, b.cos) && sameValue(a.sin, b.sin) && sameValue(a.positions, b.positions);
  return a.kind === b.kind && a.columns === b.columns && same;
}

function sameValue(a: Value | undefined, b: Value | undefined, depth = 3): boolean {
  if (a === b) return true;
  const [one, two] = [a?.producer, b?.producer];
  if (!one || !two || depth === 0 || one.attributes.size > 0 || two.attributes.size > 0) return false;
  const same = one.opType === two.opType && one.domain === two.domain && one.inputs.length === two.inputs.length;
  return same && one.inputs.every((input, i) => sameValue(input, two.input(i), depth - 1));
}

/** x of Concat(−second half, first half). */
function turnedHalves(value: Value | undefined, shapes: Shapes): { x: Value; size: number; nodes: Node[] } | undefined {
  const concat = value?.producer;
  const [negated, first] = concat?.inputs ?? [];
  const negate = negated?.producer;
  if (!concat?.is('Concat') || concat.inputs.length !== 2 || !negate?.is('Neg')) return undefined;
  const second = negate.input(0);
  const [a, b] = [first?.producer, second?.producer];
  const x = a?.input(0);
  if (!a || !b || !x || b.input(0) !== x) return undefined;
  const size = shapes.lastDim(x);
  if (size === undefined || !isPart(first, 0, size / 2, shapes) || !isPart(second, size / 2, size, shapes))
    return undefined;
  return { x, size, nodes: [concat, negate, a, b] };
}

/** Whether a value is channels [begin, end) of what its Slice or halving Split reads. */
function isPart(value: Value | undefined, begin: number, end: number, shapes: Shapes): boolean {
  const node = value?.producer;
  const size = shapes.lastDim(node?.input(0));
  if (!node || size === undefined) return false;
  const rank = shapes.dims(node.input(0))!.length;
  const isLast = (axis: unknown) => axis === -1 || axis === rank - 1;
  if (node.is('Split')) {
    const halves = node.outputs.length === 2 && node.outputs.every((part) => shapes.lastDim(part) === size / 2);
    return halves && isLast(attrInt(node, 'axis', 0)) && node.outputs.indexOf(value) * (size / 2) === begin;
  }
  if (!node.is('Slice')) return false;
  const [from, to, axis, step] = [1, 2, 3, 4].map((i) => shapes.data(node.input(i)));
  const one = step === undefined ? node.input(4) === undefined : step.length === 1 && step[0] === 1;
  const bounds =
    from?.length === 1 && from[0] === begin && typeof to?.[0] === 'number' && Math.min(to[0], size) === end;
  return one && bounds && axis?.length === 1 && isLast(axis[0]);
}

/** The value before an axis of size 1 was put in for heads. */
function withoutHeadAxis(value: Value | undefined): Value | undefined {
  let at = value;
  while (at?.producer && /^(Unsqueeze|Identity)$/.test(at.producer.opType)) at = at.producer.input(0);
  return at;
}

/** Why positions may be others than those of the tokens: they follow from inputs that are not known to hold positions. */
export function strangePositions(positions: Value): string | undefined {
  const strange = [...inputsAmong(valuesBehind(positions))].find(({ name }) => !/position|attention_mask/.test(name));
  return strange && `positions for RoPE follow from "${strange.name}"`;
}

/** Where cos and sin come from: tables, or one input with positions. @returns the reason why not, as text */
export function sourceOfAngles({ cos, sin, columns, positions: rows }: Rotation): Angles | string {
  if (rows) {
    const strange = strangePositions(rows);
    if (strange) return strange;
    const isTable = cos.constant()?.dims.length === 2 && sin.constant()?.dims.length === 2;
    return isTable ? { kind: 'tables', cos, sin } : `RoPE table "${cos.name}" is no constant of rank 2`;
  }
  const behind = new Set([...valuesBehind(cos), ...valuesBehind(sin)]);
  // A table holds the angles of each position for itself.
  const joint = [...behind].find(({ producer }) => producer && ofAllPositions.test(producer.opType))?.producer;
  if (joint) return `RoPE angles "${cos.name}" follow from ${joint.opType} "${joint.name}" of all positions`;
  const inputs = inputsAmong(behind);
  const [positions] = inputs;
  const holdsPositions =
    inputs.size === 1 && /pos/i.test(positions?.name ?? '') && /^int(32|64)$/.test(positions?.dtype ?? '');
  if (!positions || !holdsPositions || positions.shape?.length !== 2)
    return `RoPE angles "${cos.name}" follow from ${[...inputs].map(({ name }) => name).join(', ') || 'no input'}, expected positions [batch, tokens] alone`;
  return { kind: 'computed', cos, sin, columns, positions };
}

const ofAllPositions = /^(Reduce.*|Arg.*|CumSum|TopK|If|Loop|Scan)$/;

/** Values whose contents (not only shapes) a value follows from. */
function valuesBehind(value: Value): Set<Value> {
  const found = new Set([value]);
  for (const { producer } of found)
    if (producer?.is('Shape') === false) for (const input of producer.inputs) if (input) found.add(input);
  return found;
}

const inputsAmong = (values: ReadonlySet<Value>): Set<Value> =>
  new Set([...values].filter((value) => value.isGraphInput && !value.initializer));
