/** Attention of plain nodes with a cache, of which any part can be written another way. */
import { int, ints, tensorOf, type Model, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from './graph.js';

export const headSize = 16;
export const heads = 4;
export const kvHeads = 2;
const hidden = heads * headSize;
const toTheEnd = 2 ** 40;

/** A step of attention: makes of a value what the next step reads. */
type Step = (graph: PlainGraph, x: Value) => Value;

/** The parts; each is what PyTorch's exporters write unless it is given. */
export interface PlainAttention {
  readonly kvHeads?: number;
  /** `[B, S, hidden]` → `[B, heads, S, head size]`. */
  readonly heads?: (graph: PlainGraph, part: 'q' | 'k' | 'v', count: number) => Value;
  readonly rotate?: (graph: PlainGraph, x: Value, part: 'q' | 'k') => Value;
  /** Queries and keys in front of the cache. */
  readonly query?: Step;
  readonly key?: Step;
  /** Values in front of and behind the cache. */
  readonly value?: Step;
  readonly cachedValue?: Step;
  /** `[B, kv heads, T, head size]` → `[B, heads, T, head size]`. */
  readonly repeat?: Step;
  /** `[B, heads, head size, T]`. */
  readonly swapped?: Step;
  /** Scale and mask. */
  readonly scores?: Step;
  readonly softmax?: Step;
  readonly probabilities?: Step;
  /** Heads and cache in float16; scores in float32. */
  readonly halves?: boolean;
  /** Also an output of the model. */
  readonly output?: 'scores' | 'probabilities' | 'repeated' | 'attended';
}

export class PlainGraph extends TestGraph {
  readonly x = this.input('x', ['batch', 'tokens', hidden]);
  readonly #shared = new Map<string, Value>();

  constructor(readonly cacheType: 'float32' | 'float16') {
    super(18);
  }
  /** A value that is made once. */
  once(name: string, make: () => Value): Value {
    const known = this.#shared.get(name) ?? make();
    this.#shared.set(name, known);
    return known;
  }
  scalar(value: number): Value {
    return this.graph.addInitializer('scalar', tensorOf([value], []));
  }
  floats(dims: readonly number[], ...values: number[]): Value {
    return this.graph.addInitializer('floats', tensorOf(Float32Array.from(values), dims));
  }
  mul(a: Value, b: Value): Value {
    return this.op('Mul', [a, b]);
  }
  add(a: Value, b: Value): Value {
    return this.op('Add', [a, b]);
  }
  concat(axis: number, ...parts: Value[]): Value {
    return this.op('Concat', parts, { attributes: { axis: int(axis) } });
  }
  transpose(x: Value, ...perm: number[]): Value {
    return this.op('Transpose', [x], { attributes: { perm: ints(perm) } });
  }
  reshape(x: Value, ...shape: number[]): Value {
    return this.op('Reshape', [x, this.integers(...shape)]);
  }
  unsqueeze(x: Value, ...axes: number[]): Value {
    return this.op('Unsqueeze', [x, this.integers(...axes)]);
  }
  slice(x: Value, from: number, to = toTheEnd, step = 1, axis = 3): Value {
    return this.op('Slice', [x, ...[from, to, axis, step].map((number) => this.integers(number))]);
  }
  size(of: Value, axis: number): Value {
    return this.op('Gather', [this.op('Shape', [of]), this.scalar(axis)]);
  }
  linear(part: string, width: number): Value {
    return this.op('MatMul', [this.x, this.weight(`${part}.weight`, [hidden, width], 0.12)], { name: `${part}_proj` });
  }
  split(rows: Value, count: number): Value {
    return this.transpose(this.reshape(rows, 0, 0, count, headSize), 0, 2, 1, 3);
  }
  past(kind: 'key' | 'value', count: number): Value {
    const shape = ['batch', count, 'past', headSize];
    return this.once(kind, () => this.input(`past_key_values.0.${kind}`, shape, this.cacheType));
  }
  cast(x: Value, type: 'float32' | 'float16'): Value {
    return this.op('Cast', [x], { attributes: { to: int(type === 'float32' ? 1 : 10) } });
  }
  /** bool [S, T]: each query sees the keys up to its own. */
  seen(): Value {
    const [past, total] = this.sizes();
    const keys = this.op('Range', [this.scalar(0), total, this.scalar(1)]);
    const queries = this.op('Range', [past, total, this.scalar(1)]);
    return this.op('LessOrEqual', [keys, this.unsqueeze(queries, 1)]);
  }
  /** Tokens in the cache, and with the new ones. */
  sizes(): [Value, Value] {
    const past = this.size(this.past('key', kvHeads), 2);
    return [past, this.add(past, this.size(this.x, 1))];
  }
  hidden(seen: Value): Value {
    return this.op('Where', [seen, this.number(0), this.number(-3.4e38)]);
  }
  causal(): Value {
    return this.hidden(this.unsqueeze(this.seen(), 0, 1));
  }
  get positions(): Value {
    return this.once('position_ids', () => this.input('position_ids', ['batch', 'tokens'], 'int64'));
  }
  /** cos and sin `[B, 1, S, head size]` at some positions `[B, S]`. */
  angles(positions: () => Value = () => this.positions): [Value, Value] {
    const angle = this.once('angle', () => {
      const frequencies = Array.from({ length: headSize / 2 }, (_, i) => 0.7 ** i);
      const column = this.op('Cast', [this.unsqueeze(positions(), 2)], { attributes: { to: int(1) } });
      const half = this.mul(column, this.floats([1, 1, headSize / 2], ...frequencies));
      return this.concat(-1, half, half);
    });
    const table = (opType: string) => this.once(opType, () => this.unsqueeze(this.op(opType, [angle]), 1));
    return [table('Cos'), table('Sin')];
  }
  turned(x: Value, size = headSize): Value {
    return this.concat(-1, this.op('Neg', [this.slice(x, size / 2)]), this.slice(x, 0, size / 2));
  }
  rotate(x: Value, [cos, sin] = this.angles()): Value {
    return this.add(this.mul(x, cos), this.mul(this.turned(x), sin));
  }
  grouped(x: Value): Value {
    return this.unsqueeze(x, 2);
  }
  ungrouped(x: Value): Value {
    return this.reshape(x, 0, heads, -1, headSize);
  }
}

const keep: Step = (_, x) => x;

/** The whole model: rows to rows, with a cache of one layer. */
export function plainAttention(parts: PlainAttention): Model {
  const graph = new PlainGraph(parts.halves ? 'float16' : 'float32');
  const half = (x: Value) => (parts.halves ? graph.cast(x, 'float16') : x);
  const single = (x: Value) => (parts.halves ? graph.cast(x, 'float32') : x);
  const count = parts.kvHeads ?? kvHeads;
  const split = parts.heads ?? ((g, part, n) => g.split(g.linear(part, n * headSize), n));
  const rotate = parts.rotate ?? ((g, x) => g.rotate(x));
  const repeat =
    parts.repeat ??
    (count === heads
      ? keep
      : (g, x) => g.ungrouped(g.op('Expand', [g.grouped(x), g.integers(1, 1, heads / count, 1, 1)])));
  const join = (fresh: Value, kind: 'key' | 'value') => {
    const name = `present.0.${kind}`;
    const past = graph.past(kind, count);
    const joined = graph.op('Concat', [past, fresh], { outputs: [name], attributes: { axis: int(2) } });
    graph.output(joined, ['batch', count, 'total', headSize], graph.cacheType);
    return joined;
  };
  const query = half((parts.query ?? keep)(graph, rotate(graph, split(graph, 'q', heads), 'q')));
  const key = half((parts.key ?? keep)(graph, rotate(graph, split(graph, 'k', count), 'k')));
  const value = half((parts.value ?? keep)(graph, split(graph, 'v', count)));
  const keys = repeat(graph, join(key, 'key'));
  const repeated = repeat(graph, (parts.cachedValue ?? keep)(graph, join(value, 'value')));
  const swapped = (parts.swapped ?? keep)(graph, graph.transpose(keys, 0, 1, 3, 2));
  const product = graph.op('MatMul', [query, swapped]);
  const scores = (parts.scores ?? ((g, x) => g.add(g.mul(x, g.number(0.25)), g.causal())))(graph, single(product));
  const softmax = parts.softmax ?? ((g, x) => g.op('Softmax', [x], { attributes: { axis: int(-1) } }));
  const probabilities = half((parts.probabilities ?? keep)(graph, softmax(graph, scores)));
  const attended = graph.op('MatMul', [probabilities, repeated]);
  const rows = single(graph.reshape(graph.transpose(attended, 0, 2, 1, 3), 0, 0, hidden));
  graph.output(
    graph.op('MatMul', [rows, graph.weight('o.weight', [hidden, hidden])], { name: 'o_proj', outputs: ['y'] }),
  );
  graph.graph.outputs.at(-1)!.shape = ['batch', 'tokens', hidden];
  if (parts.output) graph.output({ scores, probabilities, repeated, attended }[parts.output]);
  return graph.model;
}
