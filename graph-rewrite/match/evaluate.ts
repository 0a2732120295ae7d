/**
 * Runs small integer subgraphs on samples, so that what exporters write in many ways (masks, positions, lengths) can be recognized by
 * what it computes. Numbers are doubles; true is 1.
 */
import { attrInt, elementCount, readFloats, readInts, type Node, type Tensor, type Value } from '../ir/index.js';
import { integersOf } from './constants.js';
import { arrayRules } from './evaluate-arrays.js';
import { broadcastDims, expand, maxElements, vector, type Numbers, type Rule, type RuleInput } from './numbers.js';

export class Evaluator {
  readonly #known: Map<Value, Numbers | undefined>;

  /**
   * @param given values of graph inputs
   * @param dimsOf concrete sizes of values that are not computed but asked for their shape
   */
  constructor(
    given: ReadonlyMap<Value, Numbers>,
    readonly dimsOf: (value: Value) => readonly number[] | undefined,
  ) {
    this.#known = new Map(given);
  }

  /** The value's elements, or undefined if they cannot be computed from what is given. */
  run(value: Value | undefined): Numbers | undefined {
    if (!value) return undefined;
    if (!this.#known.has(value)) this.#known.set(value, this.#compute(value));
    return this.#known.get(value);
  }

  #compute(value: Value): Numbers | undefined {
    const constant = value.constant();
    if (constant) return numbersOf(constant, value);
    const node = value.producer;
    if (!node || node.domain !== '' || node.outputs[0] !== value) return undefined;
    if (node.is('Shape')) return this.#shape(node);
    const rule = rules.get(node.opType);
    if (!rule) return undefined;
    const inputs = node.inputs.map((input) => this.run(input));
    if (inputs.some((input, i) => !input && node.input(i))) return undefined;
    const result = applied(rule, { node, inputs });
    return result && result.values.length <= maxElements ? result : undefined;
  }

  #shape(node: Node): Numbers | undefined {
    const input = node.input(0)!;
    const dims = this.dimsOf(input) ?? this.run(input)?.dims;
    return dims && vector(dims.slice(attrInt(node, 'start', 0), attrInt(node, 'end', dims.length)));
  }
}

/** The rule's result; undefined for axes and sizes that no model can have. */
function applied(rule: Rule, input: RuleInput): Numbers | undefined {
  try {
    return rule(input);
  } catch (error) {
    if (error instanceof RangeError) return undefined;
    throw error;
  }
}

const integerTypes = new Set(['int64', 'int32', 'int16', 'int8', 'uint64', 'uint32', 'uint16', 'uint8', 'bool']);

function numbersOf(tensor: Tensor, value: Value): Numbers | undefined {
  if (elementCount(tensor) > maxElements) return undefined;
  if (!integerTypes.has(tensor.dtype)) return { dims: tensor.dims, values: readFloats(tensor) };
  // Ends of slices may be 2⁶³ − 1, which is no double.
  const small = elementCount(tensor) <= 64 ? integersOf(value) : undefined;
  return { dims: tensor.dims, values: small ?? readInts(tensor) };
}

/** Applies a function to the elements of up to three tensors, broadcast against each other. */
function elementwise(f: (a: number, b: number, c: number) => number): Rule {
  return ({ inputs }) => {
    const given = inputs.filter((input) => input !== undefined);
    const dims = given.reduce<number[] | undefined>((all, { dims }) => all && broadcastDims(all, dims), []);
    if (!dims) return undefined;
    const [a, b, c] = given.map((input) => expand(input, dims)?.values);
    if (!a) return undefined;
    return { dims, values: Float64Array.from(a, (x, i) => f(x, b?.[i] ?? 0, c?.[i] ?? 0)) };
  };
}

const truth = (f: (a: number, b: number) => boolean): Rule => elementwise((a, b) => Number(f(a, b)));

const cast: Rule = ({ node, inputs: [x] }) => {
  if (!x) return undefined;
  const to = attrInt(node, 'to', 1);
  const [bool, int32, int64] = [9, 6, 7];
  const convert = to === bool ? (v: number) => Number(v !== 0) : to === int32 || to === int64 ? Math.trunc : undefined;
  return convert ? { dims: x.dims, values: Float64Array.from(x.values, convert) } : x;
};

/** Integers are divided towards zero; masks never divide anything else. */
const divide = elementwise((a, b) => (Number.isInteger(a) && Number.isInteger(b) ? Math.trunc(a / b) : a / b));

const rules: ReadonlyMap<string, Rule> = new Map<string, Rule>([
  ...arrayRules,
  ['Identity', ({ inputs: [x] }) => x],
  ['Cast', cast],
  ['Add', elementwise((a, b) => a + b)],
  ['Sub', elementwise((a, b) => a - b)],
  ['Mul', elementwise((a, b) => a * b)],
  ['Div', divide],
  ['Neg', elementwise((a) => -a)],
  ['Abs', elementwise((a) => Math.abs(a))],
  ['Equal', truth((a, b) => a === b)],
  ['Less', truth((a, b) => a < b)],
  ['LessOrEqual', truth((a, b) => a <= b)],
  ['Greater', truth((a, b) => a > b)],
  ['GreaterOrEqual', truth((a, b) => a >= b)],
  ['And', truth((a, b) => a !== 0 && b !== 0)],
  ['Or', truth((a, b) => a !== 0 || b !== 0)],
  ['Xor', truth((a, b) => (a !== 0) !== (b !== 0))],
  ['Not', truth((a) => a === 0)],
  ['Where', elementwise((condition, yes, no) => (condition === 0 ? no : yes))],
]);
