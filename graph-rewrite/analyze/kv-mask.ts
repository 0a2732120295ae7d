/**
 * What a mask says, found by running its nodes on samples: exporters write the same mask in many ways. A causal mask lets the operator
 * skip what no query sees; one that only repeats attention_mask besides is not needed where lengths say the same.
 */
import { elementCount, type Graph, type Value } from '../ir/index.js';
import { integersOf, scalarOf } from '../match/constants.js';
import { Evaluator } from '../match/evaluate.js';
import type { Numbers } from '../match/numbers.js';
import { sizesInRun } from './run-sizes.js';
import type { Shapes } from './shapes.js';
import type { AttentionMask } from './sites.js';

/** Each query sees the keys up to its own; or those of them that attention_mask marks. */
export type MaskMeaning = 'causal' | 'causal and padding';

interface Sample {
  /** S, T: new and earlier tokens. */
  readonly tokens: number;
  readonly past: number;
  /** Rows of attention_mask, [T + S] each. */
  readonly marks: readonly (readonly number[])[];
  readonly evaluator: Evaluator;
}

/** Everything up to here is hidden after a Softmax. */
export const hidden = -1e4;
/** Longer windows than this would not be noticed, so masks with larger numbers are not read. */
const longest = 1 << 17;
/** Elements up to which a constant holds numbers, and above which it is a table. */
const smallTensor = 8;

export class MaskReader {
  readonly #graph: Graph;
  readonly #shapes: Shapes;
  readonly #attentionMask: Value | undefined;
  readonly #samples = new Map<string, Sample>();

  constructor(graph: Graph, shapes: Shapes, attentionMask: Value | undefined) {
    this.#graph = graph;
    this.#shapes = shapes;
    this.#attentionMask = attentionMask;
  }

  /** What a mask says; undefined if it says anything else, or cannot be read. */
  meaning(mask: AttentionMask): MaskMeaning | undefined {
    const { value, axes = [] } = mask;
    if (mask.kind === 'where' && mask.lowest > hidden) return undefined;
    const { number, rows } = constantsBehind(value);
    if (Math.max(number, ...rows) > longest) return undefined;
    const sizes = [
      [3, 0],
      [2, 3],
      // A window would show where more tokens came before than any number in the mask; one in a table, at its last row.
      [1, number + 2],
      ...rows.map((count) => [1, count - 1] as const),
    ] as const;
    const samples = sizes.map(([tokens, past]) => this.#sample(tokens, past));
    const agrees = (padded: boolean) =>
      samples.every((sample) => {
        const result = sample.evaluator.run(value);
        return result !== undefined && saysSo(withAxes(result, axes), sample, mask, padded);
      });
    if (agrees(false)) return 'causal';
    return this.#attentionMask && agrees(true) ? 'causal and padding' : undefined;
  }

  /** Whether a value is the number of marks in each row of attention_mask, less one, wherever zeros stand. */
  countsMarks(value: Value): boolean {
    const sample = this.#sample(2, 3);
    const counted = sample.evaluator.run(value)?.values;
    return sample.marks.every((row, b) => counted?.[b] === row.reduce((sum, mark) => sum + mark, 0) - 1);
  }

  #sample(tokens: number, past: number): Sample {
    const key = `${tokens} ${past}`;
    let sample = this.#samples.get(key);
    if (!sample) this.#samples.set(key, (sample = this.#make(tokens, past)));
    return sample;
  }

  #make(tokens: number, past: number): Sample {
    const total = past + tokens;
    const caches = this.#graph.inputs.filter(({ shape }) => shape?.length === 4);
    const fixed = caches[0]?.shape?.[0];
    const batch = typeof fixed === 'number' ? fixed : 2;
    // Sequence 0 is padded in front, sequence 1 behind; both have a hole.
    const marks = Array.from({ length: batch }, (_, b) =>
      Array.from({ length: total }, (_, j) => Number(b % 2 === 0 ? j > 0 && j !== 2 : j < total - 1 && j !== 1)),
    );
    const given = new Map<Value, Numbers>();
    if (this.#attentionMask) given.set(this.#attentionMask, { dims: [batch, total], values: marks.flat() });
    const dimsOf = sizesInRun(this.#graph, this.#shapes, this.#attentionMask, { batch, tokens, past });
    return { tokens, past, marks, evaluator: new Evaluator(given, dimsOf) };
  }
}

/** Puts axes of size 1 in. */
function withAxes({ dims, values }: Numbers, axes: readonly number[]): Numbers {
  const rest = [...dims];
  const all = Array.from({ length: dims.length + axes.length }, (_, axis) => (axes.includes(axis) ? 1 : rest.shift()!));
  return { dims: all, values };
}

/** Whether a mask on a sample shows each query what it should. Queries that should see nothing are not looked at. */
function saysSo(
  { dims, values }: Numbers,
  { tokens, past, marks }: Sample,
  mask: AttentionMask,
  padded: boolean,
): boolean {
  const [batch, heads, rows, columns] = dims;
  if (dims.length !== 4 || columns! < past + tokens || (rows !== 1 && rows !== tokens)) return false;
  if (batch !== 1 && batch !== marks.length) return false;
  return marks.every((row, b) =>
    Array.from({ length: heads! }).every((_, head) =>
      Array.from({ length: tokens }).every((_, s) => {
        const sees = row.map((mark, j) => j <= past + s && (mark === 1 || !padded));
        if (!sees.includes(true)) return true;
        const from = (((batch === 1 ? 0 : b) * heads! + head) * rows! + (rows === 1 ? 0 : s)) * columns!;
        return sees.every((visible, j) => {
          const value = values[from + j]!;
          if (mask.kind === 'where') return (value !== 0) === (visible !== (mask.hides ?? false));
          return visible ? value === 0 : value <= hidden;
        });
      }),
    ),
  );
}

/** Constants that a value follows from: the largest whole number among small ones, and the sizes of tables. */
function constantsBehind(value: Value): { number: number; rows: readonly number[] } {
  const seen = new Set<Value>();
  const queue: (Value | undefined)[] = [value];
  const rows = new Set<number>();
  let number = 3;
  while (queue.length > 0) {
    const at = queue.pop();
    if (!at || seen.has(at)) continue;
    seen.add(at);
    const constant = at.constant();
    const small = constant && elementCount(constant) <= smallTensor;
    if (constant && !small) for (const dim of constant.dims) if (dim > smallTensor) rows.add(dim);
    // Ends of slices are no sizes, and lowest scores no windows.
    const float = small ? Math.abs(scalarOf(at) ?? 0) : 0;
    const numbers = (small && integersOf(at)?.map(Math.abs)) || (float <= longest ? [float] : []);
    for (const each of numbers) if (each < 2 ** 30 && Number.isInteger(each)) number = Math.max(number, each);
    if (at.producer && !at.producer.is('Shape')) queue.push(...at.producer.inputs);
  }
  return { number, rows: [...rows] };
}
