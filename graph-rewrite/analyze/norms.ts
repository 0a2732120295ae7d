/** Norms over the last axis: as one operator, and taken apart by exporters. */
import { attrFloat, attrInt, elementCount, type Graph, type Node, type Value } from '../ir/index.js';
import { integersOf, scalarOf } from '../match/constants.js';
import { any, constant, either, findAll, number, op, reject, through } from '../match/pattern.js';
import type { MatchFacts, MatchResult, Pattern, Reject, Rejection, Term } from '../match/pattern.js';
import type { Shapes } from './shapes.js';
import type { NormSite } from './sites.js';

/** Nodes that have to match before a miss is worth telling. */
const nearNodes = 4;

/** All norms of a graph, and what nearly was one. */
export function findNorms(graph: Graph, shapes: Shapes): { norms: NormSite[]; misses: Rejection[] } {
  const norms: NormSite[] = [];
  const misses: Rejection[] = [];
  for (const node of graph.nodes) {
    const result = fusedNorm(node, shapes);
    if (result?.ok) norms.push(result.facts);
    else if (result) misses.push(result.rejection);
  }
  for (const pattern of [rmsNorm(shapes), layerNorm(shapes)]) {
    const { found, misses: near } = findAll(graph, pattern, nearNodes);
    norms.push(...found);
    misses.push(...near);
  }
  // What is inside a match is no miss, and no norm of its own.
  const inside = new Set(norms.flatMap((norm) => norm.nodes.filter((node) => node !== norm.node)));
  return {
    norms: norms.filter((norm) => !inside.has(norm.node)),
    misses: misses.filter((miss) => !inside.has(miss.node)),
  };
}

const fusedTypes: ReadonlyMap<string, { kind: 'rms' | 'layer'; skip: boolean; domain?: string }> = new Map([
  ['LayerNormalization', { kind: 'layer', skip: false }],
  ['RMSNormalization', { kind: 'rms', skip: false }],
  ['SimplifiedLayerNormalization', { kind: 'rms', skip: false }],
  ['SkipLayerNormalization', { kind: 'layer', skip: true, domain: 'com.microsoft' }],
  ['SkipSimplifiedLayerNormalization', { kind: 'rms', skip: true, domain: 'com.microsoft' }],
]);

/** A norm that is one node; a rejection if it is one that we cannot take over. */
function fusedNorm(node: Node, shapes: Shapes): MatchResult<NormSite> | undefined {
  const type = fusedTypes.get(node.opType);
  if (!type || (type.domain ?? '') !== node.domain) return undefined;
  const miss = (reason: string): MatchResult<NormSite> => ({
    ok: false,
    rejection: { pattern: node.opType, reason, node, matched: nearNodes },
  });
  const [x, second] = [node.input(0), node.input(1)];
  const weight = type.skip ? node.input(2) : second;
  const bias = type.kind === 'layer' ? node.input(type.skip ? 3 : 2) : undefined;
  const added = type.skip ? node.input(type.kind === 'layer' ? 4 : 3) : undefined;
  const y = node.output(0);
  if (!x || !y || !weight) return miss('input or output is absent');
  if (added) return miss(`adds bias "${added.name}" before the norm`);
  const axis = attrInt(node, 'axis', -1);
  const rank = shapes.dims(x)?.length;
  if (!type.skip && axis !== -1 && (rank === undefined || axis !== rank - 1))
    return miss(`normalizes from axis ${axis}, expected the last one`);
  for (const [index, name] of [
    [1, 'mean'],
    [2, 'inverse deviation'],
  ] as const) {
    const extra = node.output(index);
    if (extra && (extra.uses.length > 0 || extra.isGraphOutput)) return miss(`its ${name} is used`);
  }
  const K = vectorLength(weight);
  if (K === undefined) return miss(`scale "${weight.name}" is not a constant vector`);
  if (!hasChannels(x, K, shapes)) return miss(otherChannels(weight, K));
  if (bias && vectorLength(bias) !== K) return miss(`bias "${bias.name}" is not a constant of ${K} channels`);
  const sum = type.skip ? node.output(3) : undefined;
  const facts: NormSite = {
    name: node.name || y.name,
    ...{ node, graph: node.graph, kind: type.kind, x, y, weight, weightOffset: 0, K, nodes: [node] },
    ...(type.skip && second ? { residual: second } : {}),
    ...(sum ? { sum } : {}),
    ...(bias ? { bias } : {}),
    epsilon: attrFloat(node, 'epsilon', type.skip ? 1e-12 : 1e-5),
  };
  return { ok: true, facts };
}

function vectorLength(value: Value | undefined): number | undefined {
  const tensor = value?.constant();
  if (!tensor) return undefined;
  const count = elementCount(tensor);
  return (tensor.dims.at(-1) ?? 1) === count ? count : undefined;
}

/** Whether a scale is one for each channel: a single number may be meant for all. */
const hasChannels = (x: Value, K: number, shapes: Shapes): boolean => K > 1 && (shapes.lastDim(x) ?? K) === K;

const otherChannels = (weight: Value, K: number): string =>
  `scale "${weight.name}" has ${K} elements, expected one for each channel`;

const square = (term: Term) => either(op('Pow', [term, number('2', 2)]), op('Mul', [term, term]));

/** Mean over the last axis; `where` of the pattern looks at the axis. */
const mean = (term: Term) =>
  op('ReduceMean', [term], {
    more: true,
    where: (node) => (attrInt(node, 'keepdims', 1) === 0 ? 'ReduceMean drops the axis (keepdims 0)' : undefined),
  });

const deviation = (variance: Term) => op('Sqrt', [op('Add', [variance, number('epsilon')], { commute: true })]);

/** x / deviation in the forms that exporters give it. */
const divided = (x: Term, variance: Term) =>
  either(
    op('Div', [x, deviation(variance)]),
    op(
      'Mul',
      [
        x,
        either(
          op('Reciprocal', [deviation(variance)]),
          op('Div', [number('1', 1), deviation(variance)]),
          op('Pow', [op('Add', [variance, number('epsilon')], { commute: true }), number('-0.5', -0.5)]),
        ),
      ],
      { commute: true },
    ),
  );

const input = through('Cast', any('x'));

function rmsNorm(shapes: Shapes): Pattern<NormSite> {
  const normalized = through('Cast', divided(input, mean(square(input))));
  const weight = either(
    op('Add', [constant('weight'), number('one', 1)], { commute: true }),
    through('Cast', constant('weight')),
  );
  return {
    name: 'RMSNorm',
    // Gemma scales in float32 and casts back last.
    root: through('Cast', op('Mul', [normalized, weight], { commute: true })),
    where: (match) => decomposedNorm(match, 'rms', shapes),
  };
}

function layerNorm(shapes: Shapes): Pattern<NormSite> {
  const centered = (name: string) => through('Cast', bound(name, op('Sub', [input, mean(input)])));
  const normalized = through('Cast', divided(centered('centered'), mean(square(centered('centered2')))));
  const scaled = op('Mul', [normalized, through('Cast', constant('weight'))], { commute: true });
  return {
    name: 'LayerNorm',
    root: through('Cast', op('Add', [scaled, through('Cast', constant('bias'))], { commute: true })),
    where: (match) => decomposedNorm(match, 'layer', shapes),
  };
}

/** A term whose value is bound under a name as well. */
function bound(name: string, term: Term): Term {
  const bind = any(name);
  return function* (value, state, trace) {
    for (const next of term(value, state, trace)) yield* bind(value, next, trace);
  };
}

function decomposedNorm(match: MatchFacts, kind: 'rms' | 'layer', shapes: Shapes): NormSite | Reject {
  const [x, weight, bias] = ['x', 'weight', 'bias'].map((name) => match.get(name));
  const y = match.root.output(0)!;
  const epsilon = scalarOf(match.get('epsilon'));
  const K = vectorLength(weight);
  if (!x || !weight || epsilon === undefined) return reject('input, scale or epsilon is absent', match.root);
  if (K === undefined) return reject(`scale "${weight.name}" is not a vector`, match.root);
  if (!hasChannels(x, K, shapes)) return reject(otherChannels(weight, K), match.root);
  if (bias && vectorLength(bias) !== K) return reject(`bias "${bias.name}" does not have ${K} channels`, match.root);
  for (const node of match.nodes.filter((each) => each.is('ReduceMean'))) {
    const axes = axesOf(node);
    const rank = shapes.dims(x)?.length;
    if (axes?.length !== 1 || (axes[0] !== -1 && axes[0] !== (rank ?? NaN) - 1))
      return reject(`averages over axes [${axes?.join(',') ?? 'all'}], expected the last one`, node);
  }
  const [from, to] = [shapes.dtype(x), shapes.dtype(y)];
  if (from !== undefined && to !== undefined && from !== to)
    return reject(`reads ${from} and gives ${to}, expected one type`, match.root);
  const offset = match.get('one') ? 1 : 0;
  return {
    name: match.root.name || y.name,
    ...{ node: match.root, graph: match.root.graph, kind, x, y, weight, weightOffset: offset, epsilon, K },
    ...(bias ? { bias } : {}),
    nodes: match.nodes,
  };
}

function axesOf(node: Node): readonly number[] | undefined {
  const attribute = node.attributes.get('axes');
  return attribute?.type === 'ints' ? attribute.value.map(Number) : integersOf(node.input(1));
}
