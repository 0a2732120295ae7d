import assert from 'node:assert/strict';
import { activate, activationNames, exp } from '../../ops/common/activations.js';
import { gatedActQuantize } from '../../ops/gated-act-quantize/reference.js';
import { laneSum, normalizeRow } from '../../ops/norm-quantize/norm.js';
import { normQuantize } from '../../ops/norm-quantize/reference.js';
import { quantGemm } from '../../ops/quant-gemm/reference.js';
import { packS4 } from '../../ops/formats/s4.js';

const f = Math.fround;

/** Φ(x) by its Taylor series in double; good to 1e-12 for |x| ≤ 6. */
function normalCdf(x: number): number {
  let term = x;
  let sum = x;
  for (let n = 1; n < 200; n++) {
    term *= (-x * x) / (2 * n);
    sum += term / (2 * n + 1);
  }
  return 0.5 + sum / Math.sqrt(2 * Math.PI);
}

describe('activation references', () => {
  it('exp is within 2 units in the last place, 0 and e^88 at the ends', () => {
    for (let x = -85.9; x < 88; x += 0.0137) {
      const exact = Math.exp(f(x));
      assert.ok(Math.abs(exp(f(x)) - exact) <= exact * 2 ** -22, `exp(${x})`);
    }
    assert.equal(exp(-86), 0);
    assert.equal(exp(-Infinity), 0);
    assert.equal(exp(Infinity), exp(88));
    assert.equal(exp(0), 1);
    assert.ok(Number.isNaN(exp(NaN)));
  });

  it('follow the functions they are named after', () => {
    const exact = {
      silu: (x: number) => x / (1 + Math.exp(-x)),
      gelu: (x: number) => x * normalCdf(x),
      gelu_tanh: (x: number) => 0.5 * x * (1 + Math.tanh(Math.sqrt(2 / Math.PI) * (x + 0.044715 * x ** 3))),
      relu: (x: number) => Math.max(x, 0),
    };
    for (const name of activationNames) {
      for (let x = -5.5; x <= 5.5; x += 0.00917) {
        const want = exact[name](f(x));
        assert.ok(Math.abs(activate(name, f(x)) - want) <= 2e-6, `${name}(${x}) is not ${want}`);
      }
      assert.equal(activate(name, 100), 100);
      assert.ok(Math.abs(activate(name, -100)) < 1e-30);
      assert.ok(Number.isNaN(activate(name, NaN)));
    }
  });
});

describe('norm references', () => {
  it('sums in lanes, then neighbours', () => {
    // 2^24 absorbs a single 1: the result shows who was added to whom.
    const row = new Float32Array(1026);
    row.set([2 ** 24, 1, 1, 1], 0); // pairs (2^24 + 1) -> 2^24, (1 + 1) -> 2: 2^24 + 2
    assert.equal(laneSum(row), 2 ** 24 + 2);
    row[1025] = 1; // lane 1 becomes 2: (2^24 + 2) + 2
    assert.equal(laneSum(row), 2 ** 24 + 4);
  });

  it('rms and layer of [1, 2, 3, 6]', () => {
    const x = Float32Array.of(1, 2, 3, 6);
    const weight = Float32Array.of(1, 1, 2, 1);
    const r = f(1 / f(Math.sqrt(12.5)));
    assert.deepEqual(
      normalizeRow(x, weight, undefined, { norm: 'rms', epsilon: 0 }),
      Float32Array.of(r, f(2 * r), f(f(3 * r) * 2), f(6 * r)),
    );
    const l = f(1 / f(Math.sqrt(3.5)));
    assert.deepEqual(
      normalizeRow(x, weight, Float32Array.of(0, 0, 1, 0), { norm: 'layer', epsilon: 0 }),
      Float32Array.of(f(-2 * l), -l, 1, f(3 * l)),
    );
  });

  it('takes the float16 sum as the norm input', () => {
    const attributes = { norm: 'rms', epsilon: 0, format: 's8', groupSize: 0, outlierChannels: 0, clip: 1 } as const;
    const x = Float32Array.of(2048, 0);
    const residual = Float32Array.of(1, 1); // 2049 is a tie in float16
    const weight = Float32Array.of(1, 1);
    const half = normQuantize({ x, residual, weight, graphType: 'float16' }, attributes);
    assert.deepEqual([...half.sum], [2048, 1]);
    const single = normQuantize({ x, residual, weight, graphType: 'float32' }, attributes);
    assert.deepEqual([...single.sum], [2049, 1]);
    assert.deepEqual([...single.q], [127, 0]);
  });
});

describe('gated activation reference', () => {
  it('reads gate and up from one tensor or two', () => {
    const attributes = { activation: 'relu', format: 's4', groupSize: 0, outlierChannels: 0, clip: 1 } as const;
    const two = gatedActQuantize(Float32Array.of(1, 7, -1, 2), Float32Array.of(3, 1, 9, 7), 2, attributes);
    assert.deepEqual(
      [[...two.q], [...two.scale]],
      [
        [3, 7, 0, 7],
        [1, 2],
      ],
    );
    const one = gatedActQuantize(Float32Array.of(1, 7, 3, 1, -1, 2, 9, 7), undefined, 2, attributes);
    assert.deepEqual(one, two);
  });
});

describe('matrix product reference', () => {
  const one = 0x3c00; // float16 1
  it('adds groups, outliers, bias and residual', () => {
    const K = 34;
    const attributes = {
      K,
      N: 1,
      weightFormat: 's4',
      groupSize: 16,
      aFormat: 's8',
      aGroupSize: 0,
      outlierChannels: 2,
    } as const;
    const a = new Int8Array(K).fill(1);
    a.set([10, -20], 32);
    const body = new Int8Array(32).fill(2).fill(-3, 16);
    const inputs = {
      a,
      aScale: Float32Array.of(0.5, 0.25),
      b: packS4(body, 1, 32),
      bScale: Uint16Array.of(one, 0x4000 /* 2 */),
      bOutlier: Int8Array.of(100, 7),
      bOutlierScale: Uint16Array.of(0x3800 /* 0.5 */),
      bias: Float32Array.of(1000),
      residual: Float32Array.of(-1),
    };
    // 32·0.5·1 − 48·0.5·2 + (1000 − 140)·0.25·0.5 + 1000 − 1
    assert.deepEqual([...quantGemm(inputs, attributes, 'float32').y], [16 - 48 + 107.5 + 999]);
  });

  it('takes float activations', () => {
    const attributes = {
      K: 3,
      N: 2,
      weightFormat: 's8',
      groupSize: 0,
      aFormat: 'none',
      aGroupSize: 0,
      outlierChannels: 0,
    } as const;
    const inputs = {
      a: Float32Array.of(0.5, 1, -2),
      b: Int8Array.of(2, 3, 4, -100, 0, 1),
      bScale: Uint16Array.of(one, 0x3800),
      bias: new Float32Array(0),
    };
    assert.deepEqual([...quantGemm(inputs, attributes, 'float32').y], [1 + 3 - 8, (-50 - 2) / 2]);
  });
});
