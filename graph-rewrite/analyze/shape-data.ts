/** What shape arithmetic yields: the integer values that exporters compute from Shape nodes and feed to Reshape and Expand. */
import { attrInt, attrInts, readInts, type Node } from '../ir/index.js';
import type { Dim, Dims, Shapes } from './shapes.js';

type DataRule = (node: Node, shapes: Shapes) => Dims | undefined;

const sum = (a: Dim, b: Dim): Dim =>
  typeof a === 'number' && typeof b === 'number' ? a + b : a === 0 ? b : b === 0 ? a : terms(a, b, ' + ');

/** The product of sizes as one size: a number, or the factors in a fixed order. */
export function product(dims: Dims): Dim {
  const numbers = dims.reduce<number>((all, dim) => (typeof dim === 'number' ? all * dim : all), 1);
  const names = dims.filter((dim) => typeof dim === 'string');
  if (names.length === 0 || numbers === 0) return numbers;
  return terms(...names, ...(numbers === 1 ? [] : [numbers]), ' * ');
}

function terms(...parts: Dim[]): Dim {
  const joint = String(parts.pop());
  return parts
    .flatMap((part) => String(part).split(joint))
    .sort()
    .join(joint);
}

function elementwise(combine: (a: Dim, b: Dim) => Dim | undefined): DataRule {
  return (node, shapes) => {
    const a = shapes.data(node.input(0));
    const b = shapes.data(node.input(1));
    if (!a || !b) return undefined;
    const length = Math.max(a.length, b.length);
    if ((a.length !== length && a.length !== 1) || (b.length !== length && b.length !== 1)) return undefined;
    const result = Array.from({ length }, (_, i) => combine(a[a.length === 1 ? 0 : i]!, b[b.length === 1 ? 0 : i]!));
    return result.every((each) => each !== undefined) ? result : undefined;
  };
}

const numeric = (f: (a: number, b: number) => number) =>
  elementwise((a, b) => (typeof a === 'number' && typeof b === 'number' ? f(a, b) : undefined));

const same: DataRule = (node, shapes) => shapes.data(node.input(0));

function sliced(data: Dims, start: number, end: number): Dims {
  return data.slice(start, end);
}

export const dataRules: ReadonlyMap<string, DataRule> = new Map<string, DataRule>([
  [
    'Shape',
    (node, shapes) => {
      const dims = shapes.dims(node.input(0));
      return dims && sliced(dims, attrInt(node, 'start', 0), attrInt(node, 'end', dims.length));
    },
  ],
  ['Cast', same],
  ['Identity', same],
  ['Unsqueeze', same],
  ['Squeeze', same],
  ['Reshape', same],
  [
    'Gather',
    (node, shapes) => {
      const data = shapes.data(node.input(0));
      const index = shapes.data(node.input(1));
      if (!data || !index || attrInt(node, 'axis', 0) !== 0) return undefined;
      const picked = index.map((i) => (typeof i === 'number' ? data.at(i) : undefined));
      return picked.every((each) => each !== undefined) ? picked : undefined;
    },
  ],
  [
    'Concat',
    (node, shapes) => {
      const parts = node.inputs.map((input) => shapes.data(input));
      return parts.every((part) => part !== undefined) ? parts.flat() : undefined;
    },
  ],
  [
    'Slice',
    (node, shapes) => {
      const data = shapes.data(node.input(0));
      const one = (index: number, otherwise: number) => {
        const given = node.inputs.length > index ? shapes.data(node.input(index)) : undefined;
        return given === undefined && node.input(index) === undefined ? otherwise : given?.[0];
      };
      const [start, end, step] = [
        one(1, attrInts(node, 'starts', [])[0] ?? 0),
        one(2, attrInts(node, 'ends', [])[0] ?? 0),
        one(4, 1),
      ];
      if (!data || typeof start !== 'number' || typeof end !== 'number' || step !== 1) return undefined;
      return sliced(data, start, end);
    },
  ],
  ['Add', elementwise(sum)],
  ['Mul', elementwise((a, b) => (a === 1 ? b : b === 1 ? a : product([a, b])))],
  ['Sub', elementwise((a, b) => (a === b ? 0 : typeof a === 'number' && typeof b === 'number' ? a - b : undefined))],
  ['Div', numeric((a, b) => Math.trunc(a / b))],
  // A symbol is a size, so it differs from the −1 that Expand's idiom compares with.
  [
    'Equal',
    elementwise((a, b) => {
      if (a === b) return 1;
      const number = typeof a === 'number' ? a : b;
      return typeof a === typeof b ? (typeof a === 'number' ? 0 : undefined) : Number(number) < 0 ? 0 : undefined;
    }),
  ],
  [
    'Where',
    (node, shapes) => {
      const [condition, yes, no] = [0, 1, 2].map((i) => shapes.data(node.input(i)));
      if (!condition || !yes || !no || yes.length !== condition.length || no.length !== condition.length)
        return undefined;
      return condition.map((take, i) => (take === 1 ? yes[i]! : no[i]!));
    },
  ],
  [
    'ConstantOfShape',
    (node, shapes) => {
      const length = shapes.data(node.input(0));
      const value = node.attributes.get('value');
      if (length?.length !== 1 || typeof length[0] !== 'number' || value?.type !== 'tensor') return undefined;
      if (value.value.dtype !== 'int64') return undefined;
      const [fill] = readInts(value.value);
      return fill === undefined ? undefined : new Array<Dim>(length[0]).fill(fill);
    },
  ],
]);
