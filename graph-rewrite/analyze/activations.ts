/** Activation functions, alone (fc1 → act → fc2) and as gates (act(gate) · up → down). */
import { attrFloat, attrString, type Graph, type Node, type Value } from '../ir/index.js';
import { any, either, findAll, number, op, reject } from '../match/pattern.js';
import type { MatchFacts, Pattern, Rejection, Term } from '../match/pattern.js';
import type { Activation, ActSite, GateSite } from './sites.js';

const x = any('x');

const silu = either(
  op('Mul', [x, op('Sigmoid', [x])], { commute: true }),
  op('Swish', [x], { where: (node) => alphaIs(node, 1) }),
  op('QuickGelu', [x], { domain: 'com.microsoft', where: (node) => alphaIs(node, 1, 1.702) }),
);

function alphaIs(node: Node, expected: number, otherwise = 1): string | undefined {
  const alpha = attrFloat(node, 'alpha', otherwise);
  return Math.abs(alpha - expected) < 1e-6 ? undefined : `${node.opType} has alpha ${alpha}, expected ${expected}`;
}

const halfTimes = (phi: Term) => {
  const half = number('0.5', 0.5);
  const product = (a: Term, b: Term) => op('Mul', [a, b], { commute: true });
  return either(product(x, product(half, phi)), product(product(x, phi), half), product(product(x, half), phi));
};

const erf = op('Erf', [
  either(op('Div', [x, number('√2', Math.SQRT2)]), op('Mul', [x, number('1/√2', Math.SQRT1_2)], { commute: true })),
]);

const cube = either(
  op('Pow', [x, number('3', 3)]),
  op('Mul', [x, op('Mul', [x, x])], { commute: true }),
  op('Mul', [x, op('Pow', [x, number('2', 2)])], { commute: true }),
);
const tanh = op('Tanh', [
  op(
    'Mul',
    [
      op('Add', [x, op('Mul', [cube, number('0.044715', 0.044715)], { commute: true })], { commute: true }),
      number('√(2/π)', Math.sqrt(2 / Math.PI)),
    ],
    { commute: true },
  ),
]);
const onePlus = (term: Term) => op('Add', [term, number('1', 1)], { commute: true });

const approximate = (node: Node) => attrString(node, 'approximate', 'none');
const geluOp = (domain: string, form: string) =>
  op('Gelu', [x], {
    domain,
    where: (node) => (approximate(node) === form ? undefined : `Gelu approximates by ${approximate(node)}`),
  });

/** Every form of each function; the input is bound to `x`. */
const forms: readonly (readonly [Activation, Term])[] = [
  ['silu', silu],
  ['gelu', either(geluOp('', 'none'), geluOp('com.microsoft', 'none'), halfTimes(onePlus(erf)))],
  ['gelu_tanh', either(geluOp('', 'tanh'), op('FastGelu', [x], { domain: 'com.microsoft' }), halfTimes(onePlus(tanh)))],
  ['relu', op('Relu', [x])],
];

const actPattern = (activation: Activation, term: Term): Pattern<ActSite> => ({
  name: activation,
  root: term,
  where: (match) => actSite(match, activation),
});

function actSite(match: MatchFacts, activation: Activation): ActSite {
  const y = match.root.output(0)!;
  const { root, nodes } = match;
  return { name: root.name || y.name, node: root, graph: root.graph, activation, x: match.get('x')!, y, nodes };
}

/** The term with its input bound under another name, and its own value under `act`. */
const gatePattern = (activation: Activation, term: Term): Pattern<GateSite> => ({
  name: `${activation} gate`,
  root: op('Mul', [term, any('up')], { commute: true }),
  where: (match) => {
    const [gate, up] = [match.get('x')!, match.get('up')!];
    if (gate === up) return reject('multiplies the activation by its own input', match.root);
    if (up.constant()) return reject(`multiplies the activation by the constant "${up.name}"`, match.root);
    const y = match.root.output(0)!;
    const { root, nodes } = match;
    return { name: root.name || y.name, node: root, graph: root.graph, activation, gate, up, y, nodes };
  },
});

/** All gates and all other activations of a graph. */
export function findActivations(graph: Graph): { gates: GateSite[]; acts: ActSite[]; misses: Rejection[] } {
  const misses: Rejection[] = [];
  const gates = forms.flatMap(([activation, term]) => {
    const result = findAll(graph, gatePattern(activation, term), 6);
    misses.push(...result.misses);
    return result.found;
  });
  const all = forms.flatMap(([activation, term]) => {
    const result = findAll(graph, actPattern(activation, term), 5);
    misses.push(...result.misses);
    return result.found;
  });
  const inside = insides([...gates, ...all]);
  const gating = new Set(gates.flatMap((gate) => gate.nodes));
  return {
    // `x · (0.5 · φ)` also reads as a gate around its own parts: only outermost matches count.
    gates: gates.filter((gate) => !inside.has(gate.node) && !all.some((act) => act.node === gate.node)),
    acts: all.filter((act) => !inside.has(act.node) && !gating.has(act.node)),
    misses: misses.filter((miss) => !inside.has(miss.node) && !gating.has(miss.node)),
  };
}

function insides(sites: readonly { node: Node; nodes: readonly Node[] }[]): Set<Node> {
  return new Set(sites.flatMap((site) => site.nodes.filter((node) => node !== site.node)));
}

/** Whether nothing but the gate follows from gate or up, not even from their shapes: then one value can hold both. */
export function readsAlone({ gate, up, node: root, nodes }: GateSite): boolean {
  const inside = nodes.filter((node) => node !== root).flatMap(({ outputs }) => outputs);
  return [gate, up, ...inside].every(
    (value) => !value || (!value.isGraphOutput && value.uses.every(({ node }) => nodes.includes(node))),
  );
}

/** Whether every use of a value is by one of the nodes (or asks for its shape only), and no caller sees it. */
export function usedOnlyBy(value: Value, nodes: readonly Node[]): boolean {
  return !value.isGraphOutput && value.uses.every(({ node }) => nodes.includes(node) || node.is('Shape'));
}
