/**
 * Patterns over the producers of a value, matched backwards from an output.
 *
 * A term looks at one value and yields every way in which it can be understood; a failure is recorded with its place, and the furthest
 * one becomes the reason why a pattern did not match. Terms hold no state: a match is a value.
 */
import type { Graph, Node, Value } from '../ir/index.js';
import { scalarOf } from './constants.js';

/** What has been bound so far on one way through a pattern. */
export interface Bindings {
  readonly values: ReadonlyMap<string, Value>;
  /** Matched nodes, root first. */
  readonly nodes: readonly Node[];
}

/** Why a place in the graph is not what a pattern looks for. */
export interface Rejection {
  readonly pattern: string;
  readonly reason: string;
  readonly node: Node;
  /** Nodes that did match before this one stopped the match: how near the miss was. */
  readonly matched: number;
}

export type MatchResult<T> =
  { readonly ok: true; readonly facts: T } | { readonly ok: false; readonly rejection: Rejection };

/** Returned by a pattern's `where` when the shape fits but a fact does not. */
export class Reject {
  constructor(
    readonly reason: string,
    readonly node: Node,
  ) {}
}

/** Says why a match is refused, and at which node. */
export function reject(reason: string, node: Node): Reject {
  return new Reject(reason, node);
}

/** Keeps the furthest failure of one attempt. */
class Trace {
  best: { reason: string; node: Node; matched: number } | undefined;
  fail(reason: string, node: Node | undefined, bound: Bindings): void {
    const at = node ?? bound.nodes[bound.nodes.length - 1];
    // Of equally far failures the last one: what came before it did match.
    if (at && (!this.best || bound.nodes.length >= this.best.matched)) {
      this.best = { reason, node: at, matched: bound.nodes.length };
    }
  }
}

export type Term = (value: Value | undefined, bound: Bindings, trace: Trace) => Generator<Bindings>;

const describe = (value: Value | undefined): string =>
  value === undefined
    ? 'nothing'
    : value.producer
      ? `${value.producer.opType} "${value.producer.name}"`
      : value.initializer
        ? `constant "${value.name}"`
        : `input "${value.name}"`;

/** Any value; the same name must bind the same value everywhere. */
export function any(name: string): Term {
  return function* (value, bound, trace) {
    const known = bound.values.get(name);
    if (value === undefined) trace.fail(`${name} is absent`, undefined, bound);
    else if (known === undefined) yield { ...bound, values: new Map(bound.values).set(name, value) };
    else if (known === value) yield bound;
    else trace.fail(`${name} is ${describe(known)} in one place and ${describe(value)} in another`, undefined, bound);
  };
}

/** A constant value (initializer or Constant node), bound under a name. */
export function constant(name: string): Term {
  const bind = any(name);
  return function* (value, bound, trace) {
    if (value?.constant()) yield* bind(value, bound, trace);
    else trace.fail(`${name} comes from ${describe(value)}, expected a constant`, value?.producer, bound);
  };
}

/** A constant with one element near `expected` (relative 1e-3, as exporters round); `undefined` allows any number. */
export function number(name: string, expected?: number): Term {
  const bind = constant(name);
  return function* (value, bound, trace) {
    const found = value && scalarOf(value);
    if (found === undefined)
      trace.fail(`${name} comes from ${describe(value)}, expected a number`, value?.producer, bound);
    else if (expected !== undefined && Math.abs(found - expected) > 1e-3 * Math.abs(expected))
      trace.fail(`${name} is ${found}, expected ${expected}`, value!.producer, bound);
    else yield* bind(value, bound, trace);
  };
}

export interface OpOptions {
  /** Domain of the operator; '' is ai.onnx. */
  readonly domain?: string;
  /** Try both orders of the first two inputs. */
  readonly commute?: boolean;
  /** Allow more inputs than the pattern lists (axes and the like, which `where` looks at). */
  readonly more?: boolean;
  /** Extra condition on the node: a text says why it is not met. */
  readonly where?: (node: Node) => string | undefined;
}

/** A node of one of the types (separated by `|`) that produces the value as its first output. */
export function op(types: string, inputs: readonly Term[], options: OpOptions = {}): Term {
  const names = types.split('|');
  const { domain = '', commute = false, more = false, where } = options;
  const orders = commute && inputs.length >= 2 ? [inputs, [inputs[1]!, inputs[0]!, ...inputs.slice(2)]] : [inputs];
  return function* (value, bound, trace) {
    const node = value?.producer;
    if (!node || node.domain !== domain || !names.includes(node.opType) || node.outputs[0] !== value) {
      trace.fail(`found ${describe(value)}, expected ${names.join(' or ')}`, node, bound);
      return;
    }
    const present = node.inputs.length;
    if (!more && present > inputs.length && node.inputs.slice(inputs.length).some(Boolean)) {
      trace.fail(`${node.opType} has ${present} inputs, expected ${inputs.length}`, node, bound);
      return;
    }
    const complaint = where?.(node);
    if (complaint !== undefined) {
      trace.fail(complaint, node, bound);
      return;
    }
    const started: Bindings = { ...bound, nodes: [...bound.nodes, node] };
    for (const order of orders) yield* sequence(order, node, 0, started, trace);
  };
}

function* sequence(terms: readonly Term[], node: Node, at: number, bound: Bindings, trace: Trace): Generator<Bindings> {
  const term = terms[at];
  if (!term) yield bound;
  else for (const next of term(node.input(at), bound, trace)) yield* sequence(terms, node, at + 1, next, trace);
}

/** Any of several terms, in this order. */
export function either(...terms: readonly Term[]): Term {
  return function* (value, bound, trace) {
    for (const term of terms) yield* term(value, bound, trace);
  };
}

/** The term below one node of the type, or directly at the value. */
export function through(type: string, term: Term): Term {
  return function* (value, bound, trace) {
    const node = value?.producer;
    if (node?.is(type)) yield* term(node.input(0), { ...bound, nodes: [...bound.nodes, node] }, trace);
    yield* term(value, bound, trace);
  };
}

/** A pattern: what to look for, and the facts that a match stands for (or why it does not). */
export interface Pattern<T> {
  readonly name: string;
  readonly root: Term;
  readonly where: (match: MatchFacts) => T | Reject;
}

/** A finished match as `where` sees it. */
export interface MatchFacts {
  readonly root: Node;
  /** All matched nodes, root first, without repetition. */
  readonly nodes: readonly Node[];
  /** The value bound to a name; absent only if the name is on an alternative that was not taken. */
  get(name: string): Value | undefined;
}

/** Tries a pattern on the first output of a node. */
export function matchAt<T>(pattern: Pattern<T>, node: Node): MatchResult<T> {
  const trace = new Trace();
  for (const bound of pattern.root(node.output(0), { values: new Map(), nodes: [] }, trace)) {
    const facts = pattern.where({
      root: node,
      nodes: [...new Set(bound.nodes)],
      get: (name) => bound.values.get(name),
    });
    if (!(facts instanceof Reject)) return { ok: true, facts };
    // The whole shape matched: nearer than any structural miss.
    trace.fail(facts.reason, facts.node, { ...bound, nodes: [...bound.nodes, facts.node] });
  }
  const { reason, node: at, matched } = trace.best ?? { reason: 'no output', node, matched: 0 };
  return { ok: false, rejection: { pattern: pattern.name, reason, node: at, matched } };
}

/** All matches of a pattern in one graph, and the misses that got at least `near` nodes far. */
export function findAll<T>(graph: Graph, pattern: Pattern<T>, near: number): { found: T[]; misses: Rejection[] } {
  const found: T[] = [];
  const misses: Rejection[] = [];
  for (const node of graph.nodes) {
    const result = matchAt(pattern, node);
    if (result.ok) found.push(result.facts);
    else if (result.rejection.matched >= near) misses.push(result.rejection);
  }
  return { found, misses };
}
