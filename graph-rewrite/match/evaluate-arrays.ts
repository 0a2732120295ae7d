/** Rules of `evaluate.ts` for operators that move, make and join elements. */
import { attrInt, attrInts, readFloats, readInts } from '../ir/index.js';
import { axesOf, expand, maxElements, vector, type Numbers, type Rule } from './numbers.js';

const count = (dims: readonly number[]): number => dims.reduce((all, dim) => all * dim, 1);
const at = (axis: number, rank: number): number => (axis < 0 ? axis + rank : axis);
/** Elements before, along and behind an axis. */
const around = (dims: readonly number[], axis: number): [number, number] => [
  count(dims.slice(0, axis)),
  count(dims.slice(axis + 1)),
];

/** Picks elements along an axis: element i of the result is element `indices[i]`. */
function take(x: Numbers, axis: number, indices: readonly number[]): Numbers {
  const size = x.dims[axis]!;
  const [before, behind] = around(x.dims, axis);
  const values = new Float64Array(before * indices.length * behind);
  for (let b = 0; b < before; b++)
    indices.forEach((index, i) => {
      const [to, from] = [(b * indices.length + i) * behind, (b * size + index) * behind];
      for (let k = 0; k < behind; k++) values[to + k] = x.values[from + k]!;
    });
  return { dims: x.dims.with(axis, indices.length), values };
}

const gather: Rule = ({ node, inputs: [x, index] }) => {
  if (!x || !index) return undefined;
  const axis = at(attrInt(node, 'axis', 0), x.dims.length);
  const size = x.dims[axis];
  if (size === undefined) return undefined;
  if ((index.values.length * x.values.length) / size > maxElements) return undefined;
  const indices = Array.from(index.values, (i) => at(i, size));
  if (indices.some((i) => i < 0 || i >= size)) return undefined;
  const picked = take(x, axis, indices);
  return { dims: [...x.dims.slice(0, axis), ...index.dims, ...x.dims.slice(axis + 1)], values: picked.values };
};

const gatherNd: Rule = ({ node, inputs: [x, index] }) => {
  if (!x || !index) return undefined;
  const batchDims = attrInt(node, 'batch_dims', 0);
  const depth = index.dims.at(-1)!;
  const inner = x.dims.slice(batchDims + depth);
  const slices = count(index.dims.slice(0, -1));
  const perBatch = slices / count(index.dims.slice(0, batchDims));
  const size = count(inner);
  if (slices * size > maxElements) return undefined;
  const values = new Float64Array(slices * size);
  for (let s = 0; s < slices; s++) {
    let from = Math.floor(s / perBatch);
    for (let k = 0; k < depth; k++) {
      const dim = x.dims[batchDims + k]!;
      const i = at(index.values[s * depth + k]!, dim);
      if (i < 0 || i >= dim) return undefined;
      from = from * dim + i;
    }
    for (let k = 0; k < size; k++) values[s * size + k] = x.values[from * size + k]!;
  }
  return { dims: [...index.dims.slice(0, -1), ...inner], values };
};

const slice: Rule = ({ node, inputs }) => {
  const [x, ...bounds] = inputs;
  if (!x) return undefined;
  const list = (i: number, name: string) => (bounds[i] ? Array.from(bounds[i].values) : attrInts(node, name, []));
  const [starts, ends] = [list(0, 'starts'), list(1, 'ends')];
  const axes = list(2, 'axes');
  const steps = bounds[3] ? Array.from(bounds[3].values) : starts.map(() => 1);
  let result: Numbers = x;
  for (const [i, start] of starts.entries()) {
    const axis = at(axes[i] ?? i, x.dims.length);
    const size = result.dims[axis]!;
    if (steps[i] !== 1) return undefined;
    const [from, to] = [start, ends[i]!].map((bound) => Math.min(size, Math.max(0, bound < 0 ? bound + size : bound)));
    const length = Math.max(0, to! - from!);
    result = take(
      result,
      axis,
      Array.from({ length }, (_, k) => from! + k),
    );
  }
  return result;
};

const concat: Rule = ({ node, inputs }) => {
  const parts = inputs.filter((input) => input !== undefined);
  const [first] = parts;
  if (!first) return undefined;
  const axis = at(attrInt(node, 'axis', 0), first.dims.length);
  const total = parts.reduce((sum, { dims }) => sum + dims[axis]!, 0);
  const [before] = around(first.dims, axis);
  const values: number[] = [];
  for (let b = 0; b < before; b++)
    for (const part of parts) {
      const size = part.values.length / before;
      for (let k = 0; k < size; k++) values.push(part.values[b * size + k]!);
    }
  return { dims: first.dims.with(axis, total), values };
};

const transpose: Rule = ({ node, inputs: [x] }) => {
  if (!x) return undefined;
  const rank = x.dims.length;
  const perm = attrInts(node, 'perm', [...x.dims.keys()].reverse());
  const dims = perm.map((axis) => x.dims[axis]!);
  const strides = x.dims.map((_, axis) => count(x.dims.slice(axis + 1)));
  const values = Float64Array.from({ length: x.values.length }, (_, i) => {
    let from = 0;
    for (let axis = rank - 1, rest = i; axis >= 0; axis--) {
      from += (rest % dims[axis]!) * strides[perm[axis]!]!;
      rest = Math.floor(rest / dims[axis]!);
    }
    return x.values[from]!;
  });
  return { dims, values };
};

const reshape: Rule = ({ node, inputs: [x, shape] }) => {
  if (!x || !shape) return undefined;
  const keepZero = attrInt(node, 'allowzero', 0) === 1;
  const dims = Array.from(shape.values, (dim, axis) => (dim === 0 && !keepZero ? (x.dims[axis] ?? 0) : dim));
  const known = count(dims.filter((dim) => dim !== -1));
  const whole = dims.map((dim) => (dim === -1 ? (known === 0 ? 0 : x.values.length / known) : dim));
  return count(whole) === x.values.length ? { dims: whole, values: x.values } : undefined;
};

const unsqueeze: Rule = (input) => {
  const [x] = input.inputs;
  const axes = axesOf(input, 1);
  if (!x || !axes) return undefined;
  const rank = x.dims.length + axes.length;
  const added = new Set(axes.map((axis) => at(axis, rank)));
  const rest = [...x.dims];
  return { dims: Array.from({ length: rank }, (_, axis) => (added.has(axis) ? 1 : rest.shift()!)), values: x.values };
};

const squeeze: Rule = (input) => {
  const [x] = input.inputs;
  if (!x) return undefined;
  const axes = axesOf(input, 1)?.map((axis) => at(axis, x.dims.length));
  const dims = x.dims.filter((dim, axis) => (axes ? !axes.includes(axis) : dim !== 1));
  return { dims, values: x.values };
};

const flatten: Rule = ({ node, inputs: [x] }) => {
  if (!x) return undefined;
  const axis = at(attrInt(node, 'axis', 1), x.dims.length);
  return { dims: [count(x.dims.slice(0, axis)), count(x.dims.slice(axis))], values: x.values };
};

const tile: Rule = ({ inputs: [x, repeats] }) => {
  if (!x || repeats?.values.length !== x.dims.length) return undefined;
  const times = Array.from(repeats.values);
  if (count(x.dims) * count(times) > maxElements) return undefined;
  return times.reduce<Numbers>((tiled, n, axis) => {
    const size = x.dims[axis]!;
    return n === 1
      ? tiled
      : take(
          tiled,
          axis,
          Array.from({ length: n * size }, (_, i) => i % size),
        );
  }, x);
};

const range: Rule = ({ inputs: [start, limit, delta] }) => {
  const [from, to, step] = [start, limit, delta].map((input) => input?.values[0]);
  if (from === undefined || to === undefined || !step) return undefined;
  const length = Math.max(0, Math.ceil((to - from) / step));
  if (length > maxElements) return undefined;
  return vector(Array.from({ length }, (_, i) => from + i * step));
};

const constantOfShape: Rule = ({ node, inputs: [shape] }) => {
  if (!shape) return undefined;
  const value = node.attributes.get('value');
  const tensor = value?.type === 'tensor' ? value.value : undefined;
  const isFloat = tensor?.dtype.includes('float') ?? false;
  const fill = tensor ? (isFloat ? readFloats(tensor)[0]! : readInts(tensor)[0]!) : 0;
  return expand({ dims: [], values: [fill] }, Array.from(shape.values));
};

const trilu: Rule = ({ node, inputs: [x, k] }) => {
  if (!x) return undefined;
  const [rows, columns] = x.dims.slice(-2) as [number, number];
  const [upper, offset] = [attrInt(node, 'upper', 1) === 1, k?.values[0] ?? 0];
  const keeps = (row: number, column: number) => (upper ? column - row >= offset : column - row <= offset);
  return {
    dims: x.dims,
    values: Float64Array.from(x.values, (value, i) => (keeps(Math.floor(i / columns) % rows, i % columns) ? value : 0)),
  };
};

const cumulativeSum: Rule = ({ node, inputs: [x, axisInput] }) => {
  if (!x || !axisInput || attrInt(node, 'exclusive', 0) || attrInt(node, 'reverse', 0)) return undefined;
  const axis = at(axisInput.values[0]!, x.dims.length);
  const [before, behind] = around(x.dims, axis);
  const size = x.dims[axis]!;
  const values = Float64Array.from(x.values);
  for (let b = 0; b < before; b++)
    for (let i = 1; i < size; i++)
      for (let k = 0; k < behind; k++) values[(b * size + i) * behind + k]! += values[(b * size + i - 1) * behind + k]!;
  return { dims: x.dims, values };
};

const reduceSum: Rule = (input) => {
  const [x] = input.inputs;
  if (!x) return undefined;
  const axes = (axesOf(input, 1) ?? [...x.dims.keys()]).map((axis) => at(axis, x.dims.length));
  let result: Numbers = x;
  for (const axis of axes) {
    const [before, behind] = around(result.dims, axis);
    const size = result.dims[axis]!;
    const values = new Float64Array(before * behind);
    for (let i = 0; i < result.values.length; i++) {
      const [b, k] = [Math.floor(i / (size * behind)), i % behind];
      values[b * behind + k]! += result.values[i]!;
    }
    result = { dims: result.dims.with(axis, 1), values };
  }
  if (attrInt(input.node, 'keepdims', 1) === 1) return result;
  return { dims: result.dims.filter((_, axis) => !axes.includes(axis)), values: result.values };
};

const scatterNd: Rule = ({ node, inputs: [x, index, updates] }) => {
  if (!x || !index || !updates || node.attributes.has('reduction')) return undefined;
  const depth = index.dims.at(-1)!;
  const size = count(x.dims.slice(depth));
  const values = Float64Array.from(x.values);
  for (let s = 0; s * depth < index.values.length; s++) {
    let to = 0;
    for (let k = 0; k < depth; k++) to = to * x.dims[k]! + at(index.values[s * depth + k]!, x.dims[k]!);
    for (let k = 0; k < size; k++) values[to * size + k] = updates.values[s * size + k]!;
  }
  return { dims: x.dims, values };
};

export const arrayRules: readonly (readonly [string, Rule])[] = [
  ['Gather', gather],
  ['GatherND', gatherNd],
  ['Slice', slice],
  ['Concat', concat],
  ['Transpose', transpose],
  ['Reshape', reshape],
  ['Unsqueeze', unsqueeze],
  ['Squeeze', squeeze],
  ['Flatten', flatten],
  ['Expand', ({ inputs: [x, shape] }) => x && shape && expandTo(x, Array.from(shape.values))],
  ['Tile', tile],
  ['Range', range],
  ['ConstantOfShape', constantOfShape],
  ['Trilu', trilu],
  ['CumSum', cumulativeSum],
  ['ReduceSum', reduceSum],
  ['ScatterND', scatterNd],
];

/** Expand takes 1 for "as it is". */
function expandTo(x: Numbers, shape: readonly number[]): Numbers | undefined {
  const rank = Math.max(x.dims.length, shape.length);
  const dim = (dims: readonly number[], axis: number) => dims[axis - rank + dims.length] ?? 1;
  return expand(
    x,
    Array.from({ length: rank }, (_, axis) => (dim(shape, axis) === 1 ? dim(x.dims, axis) : dim(shape, axis))),
  );
}
