/** Output shapes by operator type, for the operators of transformer graphs. A type without a rule ends what is known there. */
import { attrInt, attrInts, type Node } from '../ir/index.js';
import { product } from './shape-data.js';
import type { Dim, Dims, Shapes } from './shapes.js';

type ShapeRule = (node: Node, shapes: Shapes) => readonly (Dims | undefined)[];

const axisOf = (axis: number, rank: number): number => (axis < 0 ? axis + rank : axis);

const first: ShapeRule = (node, shapes) => node.outputs.map(() => shapes.dims(node.input(0)));

/** Numpy broadcasting; two different names make a size of its own, named after the output. */
function broadcast(all: readonly Dims[], name: string | undefined): Dims {
  const rank = Math.max(0, ...all.map((dims) => dims.length));
  return Array.from({ length: rank }, (_, axis): Dim => {
    const sizes = new Set(all.map((dims) => dims[axis - (rank - dims.length)] ?? 1));
    sizes.delete(1);
    if (sizes.size === 0) return 1;
    const number = [...sizes].find((size) => typeof size === 'number');
    return number ?? (sizes.size === 1 ? [...sizes][0]! : `${name}#${axis}`);
  });
}

const elementwise: ShapeRule = (node, shapes) => {
  const all = node.inputs.map((input) => shapes.dims(input));
  return all.every((dims) => dims !== undefined) ? [broadcast(all, node.output(0)?.name)] : [];
};

const matmul: ShapeRule = (node, shapes) => {
  const a = shapes.dims(node.input(0));
  const b = shapes.dims(node.input(1));
  if (!a || !b || a.length < 2 || b.length < 2) return [];
  if (attrInt(node, 'transA', 0) || attrInt(node, 'transBatchA', 0) || attrInt(node, 'transBatchB', 0)) return [];
  const n = attrInt(node, 'transB', 0) ? b.at(-2)! : b.at(-1)!;
  const batch = broadcast([a.slice(0, -2), b.slice(0, -2)], node.output(0)?.name);
  return [[...batch, a.at(-2)!, n]];
};

/** Factors of `all` without those of `taken`; undefined if `taken` is not a part of it. */
function remaining(all: Dims, taken: Dims): Dim | undefined {
  const names = all.filter((dim) => typeof dim === 'string').flatMap((dim) => dim.split(' * '));
  let number = all.reduce<number>((sofar, dim) => (typeof dim === 'number' ? sofar * dim : sofar), 1);
  for (const dim of taken) {
    for (const part of String(dim).split(' * ')) {
      const size = Number(part);
      if (Number.isInteger(size)) {
        if (size === 0 || number % size !== 0) return undefined;
        number /= size;
      } else {
        const at = names.indexOf(part);
        if (at < 0) return undefined;
        names.splice(at, 1);
      }
    }
  }
  return product([...names, number]);
}

const reshape: ShapeRule = (node, shapes) => {
  const input = shapes.dims(node.input(0));
  const target = shapes.data(node.input(1));
  if (!target) return [];
  const keepsZero = attrInt(node, 'allowzero', 0) !== 0;
  const unknown = (axis: number) => `${node.output(0)?.name}#${axis}`;
  const dims = target.map((dim, axis) => (dim === 0 && !keepsZero ? (input?.[axis] ?? unknown(axis)) : dim));
  const open = dims.indexOf(-1);
  const others = dims.filter((_, axis) => axis !== open);
  const rest = open >= 0 && input ? remaining(input, others) : undefined;
  return [dims.map((dim, axis) => (axis === open ? (rest ?? unknown(axis)) : dim))];
};

const tile: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  const repeats = shapes.data(node.input(1));
  if (dims?.length === undefined || repeats?.length !== dims.length) return [];
  return [
    dims.map((dim, axis) => {
      const times = repeats[axis]!;
      if (times === 1) return dim;
      return typeof dim === 'number' && typeof times === 'number' ? dim * times : `${node.output(0)?.name}#${axis}`;
    }),
  ];
};

const axesOf = (node: Node, shapes: Shapes, index: number): readonly number[] | undefined => {
  const attribute = attrInts(node, 'axes', []);
  if (attribute.length) return attribute;
  const data = shapes.data(node.input(index));
  return data?.every((axis) => typeof axis === 'number') ? data : undefined;
};

const unsqueeze: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  const axes = axesOf(node, shapes, 1);
  if (!dims || !axes) return [];
  const rank = dims.length + axes.length;
  const added = new Set(axes.map((axis) => axisOf(axis, rank)));
  let next = 0;
  return [Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : dims[next++]!))];
};

const squeeze: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  const axes = axesOf(node, shapes, 1);
  if (!dims || !axes) return [];
  const gone = new Set(axes.map((axis) => axisOf(axis, dims.length)));
  return [dims.filter((_, axis) => !gone.has(axis))];
};

const concat: ShapeRule = (node, shapes) => {
  const parts = node.inputs.map((input) => shapes.dims(input));
  const lead = parts[0];
  if (!lead || parts.some((part) => part?.length !== lead.length)) return [];
  const axis = axisOf(attrInt(node, 'axis', 0), lead.length);
  const sizes = parts.map((part) => part![axis]!);
  const total = sizes.every((size) => typeof size === 'number')
    ? sizes.reduce<number>((all, size) => all + Number(size), 0)
    : sizes.length === 1
      ? sizes[0]!
      : sizes.map(String).sort().join(' + ');
  return [lead.map((dim, i) => (i === axis ? total : dim))];
};

const split: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  if (!dims) return [];
  const axis = axisOf(attrInt(node, 'axis', 0), dims.length);
  const given = attrInts(node, 'split', []);
  const sizes = given.length ? given : shapes.data(node.input(1));
  const whole = dims[axis];
  const equal =
    typeof whole === 'number' && whole % node.outputs.length === 0 ? whole / node.outputs.length : undefined;
  return node.outputs.map((output, i) =>
    dims.map((dim, at) => (at === axis ? (sizes?.[i] ?? equal ?? `${output?.name}#${axis}`) : dim)),
  );
};

const transpose: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  if (!dims) return [];
  const perm = attrInts(
    node,
    'perm',
    dims.map((_, axis) => dims.length - 1 - axis),
  );
  return [perm.map((axis) => dims[axis]!)];
};

const gather: ShapeRule = (node, shapes) => {
  const data = shapes.dims(node.input(0));
  const index = shapes.dims(node.input(1));
  if (!data || !index) return [];
  const axis = axisOf(attrInt(node, 'axis', 0), data.length);
  return [[...data.slice(0, axis), ...index, ...data.slice(axis + 1)]];
};

const slice: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  const axes = node.input(3) ? shapes.data(node.input(3)) : undefined;
  if (!dims || !axes?.every((axis) => typeof axis === 'number')) return [];
  const cut = new Set(axes.map((axis) => axisOf(axis, dims.length)));
  return [dims.map((dim, axis) => (cut.has(axis) ? `${node.output(0)?.name}#${axis}` : dim))];
};

const reduce: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  const axes = axesOf(node, shapes, 1);
  if (!dims || !axes) return [];
  const gone = new Set(axes.map((axis) => axisOf(axis, dims.length)));
  const kept = attrInt(node, 'keepdims', 1) !== 0;
  return [dims.flatMap((dim, axis) => (!gone.has(axis) ? [dim] : kept ? [1] : []))];
};

const expand: ShapeRule = (node, shapes) => {
  const dims = shapes.dims(node.input(0));
  const target = shapes.data(node.input(1));
  if (!dims || !target || target.length < dims.length) return [];
  const shift = target.length - dims.length;
  return [target.map((dim, axis) => (dim === 1 && axis >= shift ? dims[axis - shift]! : dim))];
};

/** Output of an attention operator with 3-D queries: query rows, all heads side by side. */
const attention: ShapeRule = (node, shapes) => {
  const query = shapes.dims(node.input(0));
  if (query?.length !== 3) return query?.length === 4 ? [query] : [];
  const width = query[2];
  const packed = node.opType === 'GroupQueryAttention' && !node.input(1);
  if (!packed) return [query];
  const heads = attrInt(node, 'num_heads', 0);
  const all = heads + 2 * attrInt(node, 'kv_num_heads', 0);
  return typeof width === 'number' && heads > 0 ? [[query[0]!, query[1]!, (width / all) * heads]] : [];
};

const unary =
  'Cast Identity Relu Sigmoid Tanh Erf Sqrt Reciprocal Neg Exp Log Abs Cos Sin Not IsNaN Gelu Swish QuickGelu FastGelu BiasGelu Softmax ' +
  'LayerNormalization RMSNormalization SimplifiedLayerNormalization SkipLayerNormalization SkipSimplifiedLayerNormalization Clip ' +
  'Dropout Trilu CumSum RotaryEmbedding LeakyRelu Elu HardSigmoid HardSwish Floor Ceil Round Sign Softplus LogSoftmax';
const binary =
  'Add Sub Mul Div Pow And Or Xor Equal Less LessOrEqual Greater GreaterOrEqual Max Min Mod Where BitwiseAnd';
const reductions = 'ReduceMean ReduceSum ReduceMax ReduceMin ReduceSumSquare ReduceL2 ReduceProd';

const named = (names: string, rule: ShapeRule): [string, ShapeRule][] => names.split(' ').map((name) => [name, rule]);

export const shapeRules: ReadonlyMap<string, ShapeRule> = new Map<string, ShapeRule>([
  ...named(unary, first),
  ...named(binary, elementwise),
  ...named(reductions, reduce),
  ...named('MatMul FusedMatMul Gemm', matmul),
  ...named('GroupQueryAttention MultiHeadAttention Attention', attention),
  [
    'MatMulNBits',
    (node, shapes) => {
      const dims = shapes.dims(node.input(0));
      return dims ? [[...dims.slice(0, -1), attrInt(node, 'N', 0)]] : [];
    },
  ],
  ['Reshape', reshape],
  ['Unsqueeze', unsqueeze],
  ['Squeeze', squeeze],
  ['Concat', concat],
  ['Split', split],
  ['Transpose', transpose],
  ['Gather', gather],
  ['GatherElements', (node, shapes) => [shapes.dims(node.input(1))]],
  ['Slice', slice],
  ['Expand', expand],
  ['Tile', tile],
  [
    'Shape',
    (node, shapes) => {
      const rank = shapes.dims(node.input(0))?.length;
      if (rank === undefined) return [];
      const axes = Array.from({ length: rank }, (_, axis) => axis);
      return [[axes.slice(attrInt(node, 'start', 0), attrInt(node, 'end', rank)).length]];
    },
  ],
  ['ConstantOfShape', (node, shapes) => [shapes.data(node.input(0))]],
  ['Range', (node) => [[`${node.output(0)?.name}#0`]]],
  [
    'Flatten',
    (node, shapes) => {
      const dims = shapes.dims(node.input(0));
      if (!dims) return [];
      const axis = axisOf(attrInt(node, 'axis', 1), dims.length);
      return [[product(dims.slice(0, axis)), product(dims.slice(axis))]];
    },
  ],
]);
