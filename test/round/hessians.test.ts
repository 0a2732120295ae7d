import { deepEqual, ok, rejects } from 'node:assert/strict';
import { Tensor } from 'onnxruntime-common';
import { Model } from '../../graph-rewrite/ir/model.js';
import { collectHessians } from '../../graph-rewrite/round/index.js';
import { createOrtSession } from '../helpers/ort.js';
import { Random } from '../helpers/random.js';

const K = 24;

/** Two values, y = x and z = −x, [batch, tokens, K]. */
function twoValues(opset: number, dtype: 'float32' | 'float16' = 'float32'): Model {
  const model = new Model({ irVersion: 8, opsetImports: [['', opset]] });
  const x = model.graph.addInput('x', dtype, ['batch', 'tokens', K]);
  for (const [opType, name] of [
    ['Identity', 'y'],
    ['Neg', 'z'],
  ] as const) {
    const value = model.graph.addNode({ opType, inputs: [x], outputs: [name] }).output(0)!;
    value.dtype = dtype;
    value.shape = ['batch', 'tokens', K];
    model.graph.addOutput(value);
  }
  return model;
}

const random = new Random('hessians');
const runs = [
  [2, 5, K],
  [1, 3, K],
].map((dims) => ({
  dims,
  data: random.normals(
    'float32',
    dims.reduce((all, dim) => all * dim),
  ) as Float32Array,
}));
const feeds = runs.map(({ dims, data }) => ({ x: new Tensor('float32', data, dims) }));

/** Σ x·xᵀ in double. */
function direct(): Float64Array {
  const sum = new Float64Array(K * K);
  for (const { data } of runs)
    for (let row = 0; row < data.length; row += K)
      for (let i = 0; i < K; i++) for (let j = 0; j < K; j++) sum[i * K + j]! += data[row + i]! * data[row + j]!;
  return sum;
}

describe('Hessians', () => {
  for (const opset of [11, 13, 18, 23]) {
    it(`are the sum over rows and runs at opset ${opset}`, async () => {
      const model = twoValues(opset);
      const done: number[] = [];
      const [hessian] = await collectHessians({
        ...{ model, targets: [{ values: ['y'], K }], feeds, createSession: createOrtSession },
        onRun: (count) => done.push(count),
      });
      const expected = direct();
      hessian!.forEach((value, i) => ok(Math.abs(value - expected[i]!) < 1e-4, `${i}: ${value}, not ${expected[i]}`));
      deepEqual(done, [1, 2]);
      // What the Hessian does not need is not computed.
      ok(!model.graph.nodes.some((node) => node.is('Neg')));
    });
  }

  it('of several values add up, and others stay apart', async () => {
    const targets = [
      { values: ['y', 'z'], K },
      { values: ['z'], K },
    ];
    const [both, one] = await collectHessians({
      model: twoValues(18),
      targets,
      feeds,
      createSession: createOrtSession,
    });
    both!.forEach((value, i) => ok(Math.abs(value - 2 * one![i]!) < 1e-4));
  });

  it('of float16 values are summed in float32', async () => {
    const bits = new Uint16Array(K).fill(0x5c00); // 256, whose square is beyond float16
    const [hessian] = await collectHessians({
      ...{ model: twoValues(17, 'float16'), targets: [{ values: ['y'], K }], createSession: createOrtSession },
      feeds: [{ x: new Tensor('float16', bits, [1, 1, K]) }],
    });
    ok(hessian!.every((value) => value === 65536));
  });

  it('name the channel and the sample that are not finite', async () => {
    const data = new Float32Array(K);
    data[7] = Infinity;
    const bad = [feeds[0]!, { x: new Tensor('float32', data, [1, 1, K]) }];
    const options = { targets: [{ values: ['y'], K }], createSession: createOrtSession };
    const model = () => twoValues(18);
    await rejects(
      collectHessians({ ...options, model: model(), feeds: bad }),
      /^LowbitError: y: channel 7 .* calibration sample 1/,
    );
    await rejects(collectHessians({ ...options, model: model(), feeds: [] }), /there are no samples/);
  });
});
