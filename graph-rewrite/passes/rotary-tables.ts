/**
 * cos and sin of RoPE as tables `[positions, pairs]`, since keys that are rotated when they are read need all positions of the
 * context. A graph that computes the angles of its new tokens computes those of 0, 1, 2, … in a copy of the same nodes: RoPE depends on
 * differences of positions only, so tokens may be counted from the start of the cache.
 */
import type { CachedAttention } from '../analyze/sites.js';
import { int, tensorOf, type Node, type Value } from '../ir/index.js';
import { scalarOf } from '../match/constants.js';
import type { PassContext } from './context.js';

export interface Tables {
  readonly cos: Value;
  readonly sin: Value;
}

/** The tables of an attention; made once for all layers with the same angles. `inPlace`: the size of the cache is its capacity. */
export function rotaryTables(
  cached: CachedAttention,
  inPlace: boolean,
  before: Node,
  context: PassContext,
  shared: Map<Value, Value>,
): Tables | undefined {
  const { angles, q, key } = cached;
  if (!angles) return undefined;
  if (angles.kind === 'tables') return { cos: context.current(angles.cos), sin: context.current(angles.sin) };
  const add = adder(before, context);
  // Behind a join that is left out, everything is half as wide.
  const [whole, halved] = [new Map<Value, Value>(), new Map<Value, Value>()];
  const table = (value: Value): Value => {
    const known = shared.get(value);
    if (known) return known;
    const count = cached.headSize / 2;
    const join = joinOfHalves(value, count, context);
    const copies = join ? halved : whole;
    const { positions } = angles;
    if (!copies.has(positions))
      copies.set(positions, allPositions(positions, inPlace ? undefined : q, key.past, add, context));
    if (join) copies.set(join.output(0)!, copyWith(join.input(0)!, copies, context, before));
    const made = pairs(copyWith(value, copies, context, before), join ? count : angles.columns, count, add, context);
    shared.set(value, made);
    return made;
  };
  return { cos: table(angles.cos), sin: table(angles.sin) };
}

type Add = (opType: string, inputs: readonly (Value | undefined)[], attributes?: Record<string, number>) => Value;

function adder(before: Node, context: PassContext): Add {
  return (opType, inputs, attributes = {}) => {
    const name = `lowbit/rotary/${opType}`;
    const node = context.add({ opType, domain: '', inputs: [...inputs] }, name, [`${name}_y`], before);
    for (const [key, value] of Object.entries(attributes)) node.attributes.set(key, int(value));
    return node.output(0)!;
  };
}

/** 0 … T + S − 1 as `[1, T + S]`; to T − 1 without `q`. */
function allPositions(like: Value, q: Value | undefined, past: Value, add: Add, context: PassContext): Value {
  const constant = (name: string, values: number[], dims?: number[]) =>
    context.constant(`lowbit/rotary/${name}`, tensorOf(values, dims));
  const size = (value: Value, axis: number) =>
    add('Gather', [add('Shape', [value]), constant(`axis_${axis}`, [axis], [])], { axis: 0 });
  const total = q ? add('Add', [size(past, 2), size(context.current(q), 1)]) : size(past, 2);
  const range = add('Range', [constant('zero', [0], []), total, constant('one', [1], [])]);
  const row = add('Reshape', [range, constant('row', [1, -1])]);
  return like.dtype === 'int32' ? add('Cast', [row], { to: 6 }) : row;
}

/** A copy of what lies between the values in `copies` and `value`. */
function copyWith(value: Value, copies: Map<Value, Value>, context: PassContext, before: Node): Value {
  const known = copies.get(value);
  if (known) return known;
  const node = value.producer;
  const inputs = node?.inputs.map((input) => input && copyWith(input, copies, context, before));
  if (!node || !inputs || inputs.every((input, i) => input === node.input(i))) {
    copies.set(value, value);
    return value;
  }
  const { opType, domain, attributes } = node;
  const names = node.outputs.map((output) => output && `lowbit/rotary/${output.name}`);
  const copy = context.add({ opType, domain, inputs }, `lowbit/rotary/${node.name}`, names, before);
  for (const [key, attribute] of attributes) copy.attributes.set(key, attribute);
  node.outputs.forEach((output, i) => output && copies.set(output, copy.output(i)!));
  return copies.get(value)!;
}

/** Concat(x, x) of the channels of all pairs, if only elementwise nodes are behind it: the table needs no more than x. */
function joinOfHalves(value: Value, count: number, context: PassContext): Node | undefined {
  for (let node = value.producer; node; node = node.input(0)?.producer) {
    if (node.is('Concat'))
      return node.inputs.length === 2 &&
        node.input(0) === node.input(1) &&
        context.analysis.shapes.lastDim(node.input(0)) === count
        ? node
        : undefined;
    const scaled = node.is('Mul') && scalarOf(node.input(1)) !== undefined;
    if (!scaled && !/^(Cos|Sin|Cast|Identity|Unsqueeze)$/.test(node.opType)) return undefined;
  }
  return undefined;
}

/** `[…, positions, columns]` → `[positions, count]`; rows of further sequences come behind and are equal. */
function pairs(value: Value, columns: number, count: number, add: Add, context: PassContext): Value {
  const constant = (name: string, values: number[]) => context.constant(`lowbit/rotary/${name}`, tensorOf(values));
  const rows = add('Reshape', [value, constant('rows', [-1, columns])]);
  if (columns <= count) return rows;
  return add('Slice', [rows, constant('begin', [0]), constant('end', [count]), constant('channels', [1])]);
}
