import { deepEqual, equal, rejects } from 'node:assert/strict';
import { readFloats } from '../../graph-rewrite/ir/index.js';
import { opModel } from '../../models/op-model.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { feedForwardChannels, rewrittenFeedForward as rewritten } from '../helpers/feed-forward.js';

describe('passes: float types of graphs', () => {
  for (const type of ['float32', 'float16', 'bfloat16'] as const) {
    for (const recipe of ['w8a8', 'w4a16', 'zeroquant-fp-w8a8']) {
      it(`${type}, ${recipe}: biases stay in the graph's type, with the same values`, () => {
        const products = rewritten(type, recipe).graph.nodes.filter((node) => node.opType === 'QuantGemm');
        equal(products.length, recipe === 'w4a16' ? 3 : 2); // gate and up are one where codes are shared
        const biases = products.map((node) => node.inputs[6]!.constant()!);
        deepEqual(new Set(biases.map((bias) => bias.dtype)), new Set([type]));
        const floats = rewritten('float32', recipe).graph.nodes.filter((node) => node.opType === 'QuantGemm');
        deepEqual(
          biases.map((bias) => [...readFloats(bias)]),
          floats.map((node) => [...readFloats(node.inputs[6]!.constant()!)]),
        );
      });
    }
  }

  it('float16 computes what float32 does, but for rounding', async () => {
    const x = new Tensor(
      'float32',
      Float32Array.from({ length: 4 * feedForwardChannels }, (_, i) => Math.sin(i)),
      [4, feedForwardChannels],
    );
    const [wide, narrow] = await Promise.all(
      (['float32', 'float16'] as const).map(async (type) => {
        const session = await InferenceSession.create(serializeModel(rewritten(type, 'w8a8')));
        const { y } = await session.run({ x });
        await session.release();
        return y!.data as Float32Array;
      }),
    );
    const largest = Math.max(...wide!.map(Math.abs));
    const apart = Math.max(...wide!.map((value, i) => Math.abs(value - narrow![i]!)));
    // 2^-11 of rounding at every tensor, and codes that it tips over: 1 / 127 of a row's largest value
    equal(apart < 0.02 * largest, true, `${apart} of ${largest}`);
  });

  it('bfloat16 has no kernels on the CPU, and says so', async () => {
    const model = opModel({
      op: 'Quantize',
      inputs: [{ name: 'x', dtype: 'bfloat16', dims: ['rows', 64] }],
      outputs: [
        { name: 'q', dtype: 'int8', dims: ['rows', 64] },
        { name: 'scale', dtype: 'float32', dims: ['rows', 1] },
      ],
      attributes: { format: 's8' },
    });
    await rejects(InferenceSession.create(model), /Quantize.*: computes in bfloat16 on the CPU.*Run it with the CUDA/);
  });
});
