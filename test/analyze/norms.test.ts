import { deepEqual, equal, match, ok } from 'node:assert/strict';
import { analyze, type Analysis } from '../../graph-rewrite/analyze/index.js';
import { float, int, ints, tensorOf, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';

function analysisOf(build: (g: TestGraph, x: Value) => Value, opset = 18): Analysis {
  const g = new TestGraph(opset);
  g.output(build(g, g.input('x', ['B', 'S', 64])));
  return analyze(g.model);
}

interface RmsForm {
  readonly inverse: 'Reciprocal' | 'Div' | 'Divide';
  readonly square: 'Pow' | 'Mul';
  readonly casts: boolean;
  readonly weightFirst: boolean;
  readonly axes: 'attribute' | 'input';
}

/** RMSNorm as exporters take it apart. */
function rms(g: TestGraph, x: Value, form: RmsForm, axis = -1): Value {
  const cast = (value: Value) => (form.casts ? g.op('Cast', [value], { attributes: { to: int(1) } }) : value);
  const up = cast(x);
  const square = form.square === 'Pow' ? g.op('Pow', [up, g.number(2)]) : g.op('Mul', [up, up]);
  const mean =
    form.axes === 'input'
      ? g.op('ReduceMean', [square, g.integers(axis)])
      : g.op('ReduceMean', [square], { attributes: { axes: ints([axis]) } });
  const root = g.op('Sqrt', [g.op('Add', [mean, g.number(1e-6)])]);
  const normed =
    form.inverse === 'Divide'
      ? g.op('Div', [up, root])
      : g.op('Mul', [up, form.inverse === 'Div' ? g.op('Div', [g.number(1), root]) : g.op('Reciprocal', [root])]);
  const weight = g.weight('gamma', [64]);
  const down = cast(normed);
  return g.op('Mul', form.weightFirst ? [weight, down] : [down, weight], { name: 'norm' });
}

const base: RmsForm = { inverse: 'Reciprocal', square: 'Pow', casts: false, weightFirst: true, axes: 'input' };

describe('analyze: norms', () => {
  const forms: readonly Partial<RmsForm>[] = [
    {},
    { inverse: 'Div' },
    { inverse: 'Divide' },
    { square: 'Mul' },
    { casts: true },
    { weightFirst: false },
    { axes: 'attribute', casts: true, inverse: 'Div' },
  ];
  it('a scale of one number for all channels is no norm of ours, taken apart or not', () => {
    const one = tensorOf(Float32Array.of(1.5), [1]);
    const apart = analysisOf((g, x) => {
      const root = g.op('Sqrt', [
        g.op('Add', [g.op('ReduceMean', [g.op('Mul', [x, x]), g.integers(-1)]), g.number(1e-6)]),
      ]);
      return g.op('Mul', [g.op('Div', [x, root]), g.graph.addInitializer('one', one)]);
    });
    const fused = analysisOf((g, x) => g.op('LayerNormalization', [x, g.graph.addInitializer('one', one)]), 20);
    for (const { norms, nearMisses } of [apart, fused]) {
      equal(norms.length, 0);
      match(nearMisses[0]?.reason ?? '', /^scale "one" has 1 elements, expected one for each channel$/);
    }
  });

  for (const form of forms) {
    it(`RMSNorm taken apart ${JSON.stringify(form)}`, () => {
      const { norms } = analysisOf((g, x) => rms(g, x, { ...base, ...form }));
      equal(norms.length, 1);
      const [norm] = norms;
      deepEqual([norm!.kind, norm!.x.name, norm!.weight.name, norm!.K], ['rms', 'x', 'gamma', 64]);
      equal(Math.fround(norm!.epsilon), Math.fround(1e-6));
    });
  }

  it('RMSNorm that multiplies by 1 + weight and casts last (Gemma)', () => {
    const { norms } = analysisOf((g, x) => {
      const up = g.op('Cast', [x], { attributes: { to: int(1) } });
      const mean = g.op('ReduceMean', [g.op('Pow', [up, g.number(2)]), g.integers(-1)]);
      const root = g.op('Sqrt', [g.op('Add', [mean, g.number(1e-6)])]);
      const normed = g.op('Mul', [up, g.op('Reciprocal', [root])]);
      const scaled = g.op('Mul', [normed, g.op('Add', [g.number(1), g.weight('gamma', [64])])]);
      return g.op('Cast', [scaled], { name: 'last', attributes: { to: int(1) } });
    });
    deepEqual(
      norms.map((norm) => [norm.name, norm.weightOffset, norm.x.name]),
      [['last', 1, 'x']],
    );
  });

  for (const type of ['RMSNormalization', 'SimplifiedLayerNormalization']) {
    it(type, () => {
      const { norms } = analysisOf((g, x) =>
        g.op(type, [x, g.weight('gamma', [64])], { attributes: { axis: int(2), epsilon: float(1e-3) } }),
      );
      deepEqual([norms[0]!.kind, norms[0]!.epsilon], ['rms', 1e-3]);
    });
  }

  for (const type of ['SkipLayerNormalization', 'SkipSimplifiedLayerNormalization']) {
    it(`${type}: residual and sum`, () => {
      const simplified = type.includes('Simplified');
      const { norms } = analysisOf((g, x) => {
        const inputs = [
          x,
          g.input('skip', ['B', 'S', 64]),
          g.weight('gamma', [64]),
          ...(simplified ? [] : [g.weight('beta', [64])]),
        ];
        // A result that is named and not used is no obstacle.
        return g.op(type, inputs, { domain: 'com.microsoft', outputs: ['y', 'mean', undefined, 'sum'] });
      });
      deepEqual(
        [norms[0]!.kind, norms[0]!.residual?.name, norms[0]!.sum?.name, norms[0]!.bias?.name],
        [simplified ? 'rms' : 'layer', 'skip', 'sum', simplified ? undefined : 'beta'],
      );
    });
  }

  for (const shared of [true, false]) {
    it(`LayerNorm taken apart, ${shared ? 'one' : 'two'} Sub`, () => {
      const { norms } = analysisOf((g, x) => {
        const centre = () => g.op('Sub', [x, g.op('ReduceMean', [x, g.integers(-1)])]);
        const first = centre();
        const second = shared ? first : centre();
        const variance = g.op('ReduceMean', [g.op('Pow', [second, g.number(2)]), g.integers(-1)]);
        const normed = g.op('Div', [first, g.op('Sqrt', [g.op('Add', [variance, g.number(1e-5)])])]);
        return g.op('Add', [g.op('Mul', [normed, g.weight('gamma', [64])]), g.weight('beta', [64])], { name: 'norm' });
      });
      deepEqual(
        norms.map((norm) => [norm.kind, norm.name, norm.bias?.name]),
        [['layer', 'norm', 'beta']],
      );
    });
  }

  const misses: readonly (readonly [string, (g: TestGraph, x: Value) => Value, RegExp])[] = [
    ['another axis', (g, x) => rms(g, x, base, 1), /averages over axes \[1\], expected the last one/],
    [
      'a scale that is computed',
      (g, x) => {
        const y = rms(g, x, base);
        const normed = y.producer!.input(1)!;
        return g.op('Mul', [normed, g.op('Sigmoid', [g.input('gate', ['B', 'S', 64])], { name: 'sigmoid' })], {
          name: 'gated',
        });
      },
      /found|comes from Sigmoid "sigmoid", expected a constant/,
    ],
    [
      'LayerNormalization from another axis',
      (g, x) => g.op('LayerNormalization', [x, g.weight('gamma', [64])], { attributes: { axis: int(1) } }),
      /normalizes from axis 1, expected the last one/,
    ],
    [
      'a mean that others read',
      (g, x) => {
        const y = g.op('LayerNormalization', [x, g.weight('gamma', [64])], { outputs: ['y', 'mean'] });
        return g.op('Mul', [y, y.producer!.output(1)!]);
      },
      /its mean is used/,
    ],
    [
      'a Skip norm that also adds a bias',
      (g, x) =>
        g.op(
          'SkipSimplifiedLayerNormalization',
          [x, g.input('skip', ['B', 'S', 64]), g.weight('gamma', [64]), g.weight('bias', [64])],
          {
            domain: 'com.microsoft',
          },
        ),
      /adds bias "bias" before the norm/,
    ],
    [
      'a change of type',
      (g) => {
        const half = g.input('half', ['B', 'S', 64], 'float16');
        const up = g.op('Cast', [half], { attributes: { to: int(1) } });
        const mean = g.op('ReduceMean', [g.op('Pow', [up, g.number(2)]), g.integers(-1)]);
        const normed = g.op('Mul', [half, g.op('Reciprocal', [g.op('Sqrt', [g.op('Add', [mean, g.number(1e-6)])])])]);
        const weight = g.graph.addInitializer('gamma', tensorOf(new Float32Array(64)));
        const y = g.op('Mul', [normed, weight]);
        y.dtype = 'float32';
        return g.op('Cast', [y], { attributes: { to: int(1) } });
      },
      /reads float16 and gives float32, expected one type/,
    ],
  ];
  for (const [what, build, reason] of misses) {
    it(`near miss: ${what}`, () => {
      const { norms, nearMisses } = analysisOf(build);
      equal(norms.filter((norm) => norm.name !== 'norm').length, 0);
      ok(nearMisses.length > 0, 'no near miss');
      match(nearMisses.map((miss) => `${miss.node.name}: ${miss.reason}`).join('\n'), reason);
    });
  }
});
