import assert from 'node:assert/strict';

import { dtypeToOnnx, type DType } from '../../graph-rewrite/onnx/dtype.js';
import { toInt64 } from '../../graph-rewrite/onnx/int64.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import type { TensorProto } from '../../graph-rewrite/onnx/messages.js';
import { readFloats, readInts } from '../../graph-rewrite/ir/tensor.js';
import { temporaryFolder } from '../helpers/files.js';
import { writeModel } from '../helpers/models.js';

/** A packed run of varints, negative numbers in ten bytes as protobuf wants. */
function varints(values: (number | bigint)[]): Uint8Array {
  const bytes: number[] = [];
  for (const value of values) {
    let rest = BigInt.asUintN(64, BigInt(value));
    for (; rest > 127n; rest >>= 7n) bytes.push(Number(rest & 127n) | 128);
    bytes.push(Number(rest));
  }
  return Uint8Array.from(bytes);
}

describe('typed data fields', () => {
  const folder = temporaryFolder();

  const cases: [DType, Partial<TensorProto>, number[]][] = [
    ['float32', { floatData: [new Uint8Array(Float32Array.of(1.5, -2).buffer)] }, [1.5, -2]],
    ['float32', { floatData: [1.5, -2].map((value) => new Uint8Array(Float32Array.of(value).buffer)) }, [1.5, -2]],
    ['float64', { doubleData: [new Uint8Array(Float64Array.of(0.25, 8).buffer)] }, [0.25, 8]],
    ['float16', { int32Data: [varints([0x3c00, 0xc000])] }, [1, -2]],
    ['bfloat16', { int32Data: [varints([0x3f80, 0xc000])] }, [1, -2]],
    ['int32', { int32Data: [varints([-5, 2 ** 31 - 1])] }, [-5, 2 ** 31 - 1]],
    ['int16', { int32Data: [varints([-5, 32767])] }, [-5, 32767]],
    ['int8', { int32Data: [varints([-128, 127])] }, [-128, 127]],
    ['uint8', { int32Data: [varints([0, 255])] }, [0, 255]],
    ['bool', { int32Data: [varints([1, 0])] }, [1, 0]],
    ['int4', { int32Data: [varints([0x1f])] }, [-1, 1]],
    ['int64', { int64Data: [varints([-(2 ** 52), 2 ** 53 - 1])] }, [-(2 ** 52), 2 ** 53 - 1]],
    ['uint64', { uint64Data: [varints([1, 2 ** 40])] }, [1, 2 ** 40]],
    ['uint32', { uint64Data: [varints([1, 2 ** 32 - 1])] }, [1, 2 ** 32 - 1]],
  ];
  for (const [dtype, data, expected] of cases) {
    const [[field, pieces] = []] = Object.entries(data);
    it(`${field} holds ${dtype}${(pieces as unknown[]).length > 1 ? ' in pieces' : ''}, inside the model and moved out`, async () => {
      const tensor = { name: 'w', dims: [toInt64(2)], dataType: dtypeToOnnx(dtype), ...data };
      let model = loadModel(writeModel(folder.path('in.onnx'), { name: 'g', initializer: [tensor] }));
      for (const threshold of [Infinity, 1]) {
        const read = /float/.test(dtype) ? readFloats : readInts;
        assert.deepEqual([...read(model.graph.value('w')!.initializer!)], expected);
        await saveModel(model, folder.path(`${threshold}.onnx`), { externalThreshold: threshold });
        model = loadModel(folder.path(`${threshold}.onnx`));
      }
      assert.deepEqual(
        [...(/float/.test(dtype) ? readFloats : readInts)(model.graph.value('w')!.initializer!)],
        expected,
      );
    });
  }

  it('elements written one by one count as well', () => {
    const floats = [1, 2].map((value) => Buffer.concat([Buffer.of(0x25), Buffer.from(Float32Array.of(value).buffer)]));
    const tensor = { name: 'w', dims: [toInt64(2)], dataType: 1, $unknowns: floats };
    const model = loadModel(writeModel(folder.path('in.onnx'), { name: 'g', initializer: [tensor] }));
    assert.deepEqual([...readFloats(model.graph.value('w')!.initializer!)], [1, 2]);
  });

  it('integers beyond a double are refused, not rounded', () => {
    const tensor = { name: 'w', dims: [toInt64(1)], dataType: 7, int64Data: [varints([2n ** 53n + 1n])] };
    const model = loadModel(writeModel(folder.path('in.onnx'), { name: 'g', initializer: [tensor] }));
    assert.throws(() => readInts(model.graph.value('w')!.initializer!), /holds 9007199254740993, beyond/);
  });

  it('data that is too short is reported when asked for', () => {
    const tensor = { name: 'w', dims: [toInt64(3)], dataType: 1, rawData: new Uint8Array(8) };
    const model = loadModel(writeModel(folder.path('in.onnx'), { name: 'g', initializer: [tensor] }));
    assert.throws(
      () => readFloats(model.graph.value('w')!.initializer!),
      /has 8 bytes of data, expected 12 for float32\[3\]/,
    );
  });
});
