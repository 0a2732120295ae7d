import { deepEqual, equal, ok } from 'node:assert/strict';
import { analyze, type LinearSite } from '../../graph-rewrite/analyze/index.js';
import { int, ints, lazyTensor, readFloats, tensor, tensorOf, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';

/** The layers of a graph with x [B, S, 64]; what is built becomes the output. */
function linears(build: (g: TestGraph, x: Value) => Value): readonly LinearSite[] {
  const g = new TestGraph();
  g.output(build(g, g.input('x', ['B', 'S', 64])));
  return analyze(g.model).linears;
}

function only(build: (g: TestGraph, x: Value) => Value): LinearSite {
  const all = linears(build);
  equal(all.length, 1);
  return all[0]!;
}

describe('analyze: linear layers', () => {
  it('MatMul with an initializer is [K, N]', () => {
    const site = only((g, x) => g.op('MatMul', [x, g.weight('w', [64, 48])]));
    deepEqual([site.K, site.N, site.layout, site.bias, site.quantizable], [64, 48, 'KN', undefined, true]);
  });

  it('reads weights from Constant nodes and through Identity, Cast and Transpose', () => {
    const site = only((g, x) => {
      const value = g.weight('w', [48, 64]).initializer!;
      const constant = g.op('Constant', [], { attributes: { value: tensor(value) } });
      const cast = g.op('Cast', [g.op('Identity', [constant])], { attributes: { to: int(1) } });
      return g.op('MatMul', [x, g.op('Transpose', [cast], { attributes: { perm: ints([1, 0]) } })]);
    });
    deepEqual([site.K, site.N, site.layout, site.quantizable], [64, 48, 'NK', true]);
  });

  for (const side of ['left', 'right'] as const) {
    it(`takes a bias from the ${side} of the Add behind it`, () => {
      const site = only((g, x) => {
        const product = g.op('MatMul', [x, g.weight('w', [64, 48])]);
        const bias = g.weight('b', [1, 48]);
        return g.op('Add', side === 'left' ? [bias, product] : [product, bias]);
      });
      equal(site.bias?.byteLength, 48 * 4);
      equal(site.y.producer?.opType, 'Add');
    });
  }

  it('leaves an Add alone that is no bias: two users, other sizes, or no constant', () => {
    const twice = only((g, x) => {
      const product = g.op('MatMul', [x, g.weight('w', [64, 48])]);
      return g.op('Mul', [g.op('Add', [product, g.weight('b', [48])]), product]);
    });
    const positions = only((g, x) =>
      g.op('Add', [g.op('MatMul', [x, g.weight('w', [64, 48])]), g.weight('p', [5, 48])]),
    );
    const dynamic = only((g, x) => g.op('Add', [g.op('MatMul', [x, g.weight('w', [64, 64])]), x]));
    for (const site of [twice, positions, dynamic]) {
      equal(site.bias, undefined);
      equal(site.y.producer?.opType, 'MatMul');
    }
  });

  it('Gemm: transB, alpha on the weight, beta on the bias', () => {
    const g = new TestGraph();
    const x = g.input('x', ['M', 64]);
    const [w, b] = [g.weight('w', [48, 64]), g.weight('b', [48])];
    const attributes = {
      transB: int(1),
      alpha: { type: 'float', value: 2 } as const,
      beta: { type: 'float', value: 3 } as const,
    };
    g.output(g.op('Gemm', [x, w, b], { attributes }), ['M', 48]);
    const [site] = analyze(g.model).linears;
    deepEqual([site!.K, site!.N, site!.layout], [64, 48, 'NK']);
    equal(readFloats(site!.weight)[5], 2 * readFloats(w.initializer!)[5]!);
    equal(readFloats(site!.bias!)[5], Math.fround(3 * readFloats(b.initializer!)[5]!));
  });

  it('one number as Gemm bias is a bias of equal channels', () => {
    const g = new TestGraph();
    g.output(g.op('Gemm', [g.input('x', ['M', 64]), g.weight('w', [64, 48]), g.number(0.5)]), ['M', 48]);
    deepEqual([...readFloats(analyze(g.model).linears[0]!.bias!)], Array(48).fill(0.5));
  });

  it('takes the Reshapes around a flattened Gemm with it if rows come back as they were', () => {
    const site = only((g, x) => {
      const flat = g.op('Reshape', [x, g.integers(-1, 64)]);
      const product = g.op('Gemm', [flat, g.weight('w', [64, 48])]);
      const rows = g.op('Concat', [g.op('Shape', [x], { attributes: { end: int(2) } }), g.integers(48)], {
        attributes: { axis: int(0) },
      });
      return g.op('Reshape', [product, rows]);
    });
    deepEqual([site.x.name, site.nodes.map((node) => node.opType).join()], ['x', 'Gemm,Reshape,Reshape']);
  });

  it('keeps the Reshapes if rows do not certainly come back', () => {
    const site = only((g, x) => {
      const product = g.op('Gemm', [g.op('Reshape', [x, g.integers(-1, 64)]), g.weight('w', [64, 48])]);
      return g.op('Reshape', [product, g.integers(-1, 2, 48)]);
    });
    deepEqual([site.x.producer?.opType, site.nodes.length], ['Reshape', 1]);
    equal(site.y.producer?.opType, 'Gemm');
  });

  it('layers behind Reshapes of their own that flatten the same rows share an input; other Reshapes part them', () => {
    for (const [shape, inputs] of [
      [[-1, 64], 1],
      [[-1, 32], 2],
    ] as const) {
      const g = new TestGraph();
      const x = g.input('x', ['B', 'S', 64]);
      for (const name of ['q', 'k']) {
        const rows = g.op('Reshape', [g.op('Identity', [x], { name: `${name}_same` }), g.integers(...shape)], {
          name: `${name}_rows`,
        });
        g.output(g.op('Gemm', [rows, g.weight('w', [shape[1], 48])], { name }));
      }
      equal(analyze(g.model).inputs.length, inputs);
    }
  });

  const reasons: readonly (readonly [string, (g: TestGraph, x: Value) => Value, RegExp])[] = [
    [
      'a weight that is computed',
      (g, x) => g.op('MatMul', [x, g.op('Mul', [g.weight('w', [64, 48]), g.number(2)], { name: 'scale' })]),
      /^weight is not constant \(comes from Mul "scale"\)$/,
    ],
    [
      'a weight in three dimensions',
      (g, x) => g.op('MatMul', [x, g.weight('w', [1, 64, 48])]),
      /"w" has 3 dimensions \[1,64,48\], expected 2/,
    ],
    [
      'few input channels',
      (g) => g.op('MatMul', [g.input('z', ['n', 16]), g.weight('w', [16, 48])]),
      /^16 input channels, expected at least 32$/,
    ],
    [
      'more channels than sums can hold',
      (g) => {
        const w = g.graph.addInitializer(
          'w',
          lazyTensor('float32', [131088, 64], () => new Uint8Array(131088 * 256)),
        );
        return g.op('MatMul', [g.input('z', ['n', 131088]), w]);
      },
      /^131088 input channels, expected at most 131072$/,
    ],
    [
      'a constant on the left',
      (g) => g.op('MatMul', [g.weight('w', [48, 64]), g.input('z', [64, 'n'])]),
      /left operand/,
    ],
    [
      'transA',
      (g) => g.op('Gemm', [g.input('z', [64, 'n']), g.weight('w', [64, 48])], { attributes: { transA: int(1) } }),
      /transposes its left operand/,
    ],
    [
      'a Gemm that adds a matrix',
      (g) => g.op('Gemm', [g.input('z', ['n', 64]), g.weight('w', [64, 48]), g.input('c', ['n', 48])]),
      /^Gemm adds "c", expected a constant of 48 channels$/,
    ],
    [
      'integers',
      (g, x) => g.op('MatMul', [x, g.graph.addInitializer('w', tensorOf(new Int32Array(64 * 48), [64, 48]))]),
      /"w" is int32, expected a float type/,
    ],
    [
      'doubles',
      (g) => g.op('MatMul', [g.input('z', ['n', 64], 'float64'), g.weight('w', [64, 48])]),
      /computes in float64/,
    ],
    ['no outputs', (g, x) => g.op('MatMul', [x, g.weight('w', [64, 0])]), /^0 output channels, expected at least 1$/],
    [
      'one vector instead of rows',
      (g) => g.op('MatMul', [g.input('z', [64]), g.weight('w', [64, 48])]),
      /one dimension/,
    ],
  ];
  for (const [what, build, reason] of reasons) {
    it(`says why it leaves ${what}`, () => {
      const site = linears(build)[0]!;
      equal(site.quantizable, false);
      ok(reason.test(site.reason!), site.reason);
    });
  }

  it('a weight that callers may replace stays', () => {
    const site = only((g, x) => {
      const w = g.input('w', [64, 48]);
      w.initializer = g.weight('values', [64, 48]).initializer!;
      return g.op('MatMul', [x, w]);
    });
    equal(site.reason, 'weight is not constant ("w" is a graph input, whose value callers may replace)');
  });

  it('so does one that an old model lists among its inputs', () => {
    const g = new TestGraph();
    g.model.irVersion = 3;
    const w = g.input('w', [64, 48]);
    w.initializer = g.weight('values', [64, 48]).initializer!;
    g.output(g.op('MatMul', [g.input('x', ['n', 64]), w]));
    const [site] = analyze(g.model).linears;
    equal(site!.reason, 'weight "w" is listed as a graph input, expected an initializer alone (IR version 4 or newer)');
  });

  it('layers whose results lead nowhere are none', () => {
    const site = only((g, x) => {
      const dead = g.op('MatMul', [x, g.weight('w', [64, 8])], { name: 'dead' });
      g.op('MatMul', [g.op('Relu', [dead]), g.weight('w', [8, 8])], { name: 'dead_too' });
      return g.op('MatMul', [x, g.weight('w', [64, 48])], { name: 'alive' });
    });
    equal(site.name, 'alive');
  });

  it('follows chains of nodes however long', () => {
    const site = only((g, x) => {
      let deep = x;
      for (let i = 0; i < 20_000; i++) deep = g.op('Relu', [deep], { name: `relu${i}` });
      return g.op('MatMul', [deep, g.weight('w', [64, 48])]);
    });
    equal(site.quantizable, true);
  });

  it('does not take products of activations for layers', () => {
    equal(linears((g, x) => g.op('MatMul', [x, g.input('keys', ['B', 64, 'T'])])).length, 0);
  });

  it('gives layers without node names names of their own', () => {
    const sites = linears((g, x) => {
      const w = g.weight('w', [64, 64]);
      const [a, b] = [0, 1].map(() => g.op('MatMul', [x, w], { name: '' }));
      return g.op('Add', [a, b]);
    });
    equal(new Set(sites.map((site) => site.name)).size, 2);
    equal(sites[0]!.weightValue, sites[1]!.weightValue);
  });
});
