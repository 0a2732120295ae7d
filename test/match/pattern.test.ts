import { deepEqual, equal, ok } from 'node:assert/strict';
import { any, constant, either, matchAt, number, op, reject, through } from '../../graph-rewrite/match/pattern.js';
import type { MatchResult, Pattern, Term } from '../../graph-rewrite/match/pattern.js';
import { TestGraph } from '../helpers/graph.js';

const names = (term: Term): Pattern<string[]> => ({
  name: 'test',
  root: term,
  where: (match) => match.nodes.map((node) => node.opType),
});

function reason(result: MatchResult<unknown>): string {
  ok(!result.ok, 'the pattern matched');
  return `${result.rejection.node.name}: ${result.rejection.reason}`;
}

describe('match/pattern', () => {
  const silu = op('Mul', [any('x'), op('Sigmoid', [any('x')])], { commute: true });

  it('tries both orders of a commutative node', () => {
    for (const swap of [false, true]) {
      const g = new TestGraph();
      const x = g.input('x', ['n']);
      const sigmoid = g.op('Sigmoid', [x]);
      const y = g.op('Mul', swap ? [sigmoid, x] : [x, sigmoid]);
      const result = matchAt(names(silu), y.producer!);
      ok(result.ok);
      deepEqual(result.facts, ['Mul', 'Sigmoid']);
    }
  });

  it('wants one value for one name, and says which two it found', () => {
    const g = new TestGraph();
    const y = g.op('Mul', [g.input('x', ['n']), g.op('Sigmoid', [g.input('z', ['n'])])]);
    equal(reason(matchAt(names(silu), y.producer!)), 'Sigmoid: x is input "x" in one place and input "z" in another');
  });

  it('reports the failure that got furthest', () => {
    const g = new TestGraph();
    const x = g.input('x', ['n']);
    const y = g.op('Mul', [x, g.op('Tanh', [x])]);
    const both = either(silu, op('Mul', [any('x'), op('Tanh', [op('Exp', [any('x')])])]));
    equal(reason(matchAt(names(both), y.producer!)), 'Tanh: found input "x", expected Exp');
  });

  it('refuses other numbers and says both', () => {
    const g = new TestGraph();
    const y = g.op('Pow', [g.input('x', ['n']), g.number(3)]);
    equal(
      reason(matchAt(names(op('Pow', [any('x'), number('exponent', 2)])), y.producer!)),
      'Pow: exponent is 3, expected 2',
    );
  });

  it('looks through one optional node, and reads constants behind Constant, Cast and Identity', () => {
    const g = new TestGraph();
    const x = g.input('x', ['n']);
    const two = g.op('Constant', [], { attributes: { value_float: { type: 'float', value: 2 } } });
    const cast = g.op('Cast', [g.op('Identity', [two])], { attributes: { to: { type: 'int', value: 1 } } });
    const y = g.op('Pow', [g.op('Cast', [x]), cast]);
    const result = matchAt(names(op('Pow', [through('Cast', any('x')), number('2', 2)])), y.producer!);
    ok(!result.ok, 'number binds constants only');
    const direct = g.op('Pow', [g.op('Cast', [x]), g.op('Identity', [two])]);
    ok(matchAt(names(op('Pow', [through('Cast', any('x')), number('2', 2)])), direct.producer!).ok);
  });

  it('counts extra inputs, unless they are allowed', () => {
    const g = new TestGraph();
    const y = g.op('ReduceMean', [g.input('x', ['n']), g.integers(-1)]);
    equal(
      reason(matchAt(names(op('ReduceMean', [any('x')])), y.producer!)),
      'ReduceMean: ReduceMean has 2 inputs, expected 1',
    );
    ok(matchAt(names(op('ReduceMean', [any('x')], { more: true })), y.producer!).ok);
  });

  it('keeps a reason given by where above every structural miss, and tries other ways first', () => {
    const g = new TestGraph();
    const x = g.input('x', ['n']);
    const y = g.op('Add', [x, g.weight('w', [4])]);
    const pattern: Pattern<string> = {
      name: 'picky',
      root: op('Add', [any('a'), constant('w')], { commute: true }),
      where: (match) => reject(`will not have ${match.get('a')!.name}`, match.root),
    };
    equal(reason(matchAt(pattern, y.producer!)), 'Add: will not have x');
  });
});
