import { deepEqual, equal, match } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { float, string, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';

type Build = (g: TestGraph, x: Value) => Value;

const silu: Build = (g, x) => g.op('Mul', [x, g.op('Sigmoid', [x])]);
const siluSwapped: Build = (g, x) => g.op('Mul', [g.op('Sigmoid', [x]), x]);
const swish: Build = (g, x) => g.op('Swish', [x]);
const quick: Build = (g, x) => g.op('QuickGelu', [x], { domain: 'com.microsoft', attributes: { alpha: float(1) } });
const erf = (g: TestGraph, x: Value) =>
  g.op('Add', [g.op('Erf', [g.op('Div', [x, g.number(Math.SQRT2)])]), g.number(1)]);
const geluHalfInside: Build = (g, x) => g.op('Mul', [x, g.op('Mul', [g.number(0.5), erf(g, x)])]);
const geluHalfLast: Build = (g, x) => g.op('Mul', [g.op('Mul', [x, erf(g, x)]), g.number(0.5)]);
const geluHalfFirst: Build = (g, x) => g.op('Mul', [g.op('Mul', [x, g.number(0.5)]), erf(g, x)]);
const tanh: Build = (g, x) => {
  const cube = g.op('Pow', [x, g.number(3)]);
  const inner = g.op('Add', [x, g.op('Mul', [cube, g.number(0.044715)])]);
  const u = g.op('Tanh', [g.op('Mul', [inner, g.number(Math.sqrt(2 / Math.PI))])]);
  return g.op('Mul', [g.op('Mul', [x, g.number(0.5)]), g.op('Add', [u, g.number(1)])]);
};

const functions: readonly (readonly [string, string, Build])[] = [
  ['silu', 'Mul(x, Sigmoid)', silu],
  ['silu', 'Mul(Sigmoid, x)', siluSwapped],
  ['silu', 'Swish', swish],
  ['silu', 'QuickGelu with alpha 1', quick],
  ['gelu', 'Gelu', (g, x) => g.op('Gelu', [x])],
  ['gelu', 'com.microsoft Gelu', (g, x) => g.op('Gelu', [x], { domain: 'com.microsoft' })],
  ['gelu', 'x · (½ · (1 + erf))', geluHalfInside],
  ['gelu', '(x · (1 + erf)) · ½', geluHalfLast],
  ['gelu', '(x · ½) · (1 + erf)', geluHalfFirst],
  ['gelu_tanh', 'Gelu approximate=tanh', (g, x) => g.op('Gelu', [x], { attributes: { approximate: string('tanh') } })],
  ['gelu_tanh', 'FastGelu', (g, x) => g.op('FastGelu', [x], { domain: 'com.microsoft' })],
  ['gelu_tanh', 'taken apart', tanh],
  ['relu', 'Relu', (g, x) => g.op('Relu', [x])],
];

describe('analyze: activations', () => {
  for (const [activation, form, build] of functions) {
    it(`${activation} as ${form}: alone, and as a gate from either side`, () => {
      const alone = new TestGraph();
      alone.output(build(alone, alone.input('x', ['B', 'S', 64])));
      const { acts, gates } = analyze(alone.model);
      deepEqual([acts.map((act) => [act.activation, act.x.name]), gates.length], [[[activation, 'x']], 0]);
      for (const upFirst of [true, false]) {
        const g = new TestGraph();
        const [x, up] = [g.input('x', ['B', 'S', 64]), g.input('up', ['B', 'S', 64])];
        const act = build(g, x);
        g.output(g.op('Mul', upFirst ? [up, act] : [act, up]));
        const found = analyze(g.model);
        deepEqual(
          [found.gates.map((gate) => [gate.activation, gate.gate.name, gate.up.name]), found.acts.length],
          [[[activation, 'x', 'up']], 0],
        );
      }
    });
  }

  it('QuickGelu with its own alpha is no silu', () => {
    const g = new TestGraph();
    const x = g.input('x', ['B', 'S', 64]);
    const act = g.op('QuickGelu', [x], { domain: 'com.microsoft' });
    g.output(g.op('Mul', [act, g.input('up', ['B', 'S', 64])]));
    const { gates, acts } = analyze(g.model);
    deepEqual([gates.length, acts.length], [0, 0]);
  });

  it('a gelu with another constant is a near miss that says so', () => {
    const g = new TestGraph();
    const x = g.input('x', ['B', 'S', 64]);
    const phi = g.op('Add', [g.op('Erf', [g.op('Div', [x, g.number(1.5)])]), g.number(1)]);
    g.output(g.op('Mul', [x, g.op('Mul', [g.number(0.5), phi])]));
    const { acts, nearMisses } = analyze(g.model);
    equal(acts.length, 0);
    match(nearMisses[0]!.reason, /√2 is 1.5, expected 1.414/);
  });
});
