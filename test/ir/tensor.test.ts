import assert from 'node:assert/strict';

import { byteLength, dtypeFromOnnx, dtypeToOnnx } from '../../graph-rewrite/onnx/dtype.js';
import { inlineTensor, lazyTensor, readFloats, readInts } from '../../graph-rewrite/ir/tensor.js';

describe('tensors', () => {
  it('read floats of every width, in ranges, from unaligned views', () => {
    const bytes = new Uint8Array(9);
    bytes.set(new Uint8Array(Float32Array.of(1.5, -3).buffer), 1);
    const unaligned = inlineTensor('float32', [2], bytes.subarray(1));
    assert.deepEqual([...readFloats(unaligned)], [1.5, -3]);
    assert.deepEqual([...readFloats(unaligned, 1)], [-3]);
    const halves = inlineTensor('float16', [4], new Uint8Array(Uint16Array.of(0x3c00, 0x0001, 0x7c00, 0xfbff).buffer));
    assert.deepEqual([...readFloats(halves)], [1, 2 ** -24, Infinity, -65504]);
    const brain = inlineTensor('bfloat16', [2], new Uint8Array(Uint16Array.of(0x3f80, 0xc040).buffer));
    assert.deepEqual([...readFloats(brain)], [1, -3]);
    assert.deepEqual([...readFloats(inlineTensor('float64', [1], new Uint8Array(Float64Array.of(0.5).buffer)))], [0.5]);
  });

  it('do not hand out the memory of the model', () => {
    const bytes = new Uint8Array(Float32Array.of(1).buffer);
    readFloats(inlineTensor('float32', [1], bytes)).fill(9);
    assert.equal(new Float32Array(bytes.buffer)[0], 1);
  });

  it('read packed 4-bit integers', () => {
    assert.deepEqual(readInts(inlineTensor('int4', [3], Uint8Array.of(0xf1, 0x08))), [1, -1, -8]);
    assert.deepEqual(readInts(inlineTensor('uint4', [3], Uint8Array.of(0xf1, 0x08))), [1, 15, 8]);
  });

  it('refuse the wrong type or size', () => {
    assert.throws(() => readFloats(inlineTensor('int8', [1], new Uint8Array(1))), /expected float32, float16/);
    assert.throws(() => readInts(inlineTensor('float32', [1], new Uint8Array(4))), /expected integer elements/);
    assert.throws(
      () => inlineTensor('float32', [2], new Uint8Array(4)),
      /^LowbitError: internal: .*has 4 bytes, expected 8/,
    );
    const short = lazyTensor('float32', [2], () => new Uint8Array(4));
    assert.throws(() => readFloats(short), /holds 4 bytes/);
  });

  it('know element types by number, and keep numbers they do not know', () => {
    assert.equal(dtypeFromOnnx(16), 'bfloat16');
    assert.equal(dtypeToOnnx('int2'), 26);
    assert.equal(dtypeToOnnx(dtypeFromOnnx(1234)), 1234);
    assert.equal(byteLength('int4', 3), 2);
    assert.equal(byteLength('uint2', 5), 2);
    assert.throws(() => byteLength('unknown:1234', 1), /has no fixed element size/);
  });
});
