import assert from 'node:assert/strict';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { castModel, unaryModel } from '../helpers/tiny-models.js';

type Data = InstanceType<typeof Tensor>['data'];

const float16 = (globalThis as { Float16Array?: new (buffer: ArrayBuffer) => Data }).Float16Array;
const halves = Uint16Array.of(0x3c00, 0xc000, 0x7bff, 0x0001);

/** One tensor of every type that a full-width Identity takes. */
const cases: Record<string, Data> = {
  float32: Float32Array.of(1.5, -0, Number.NaN, Infinity),
  float64: Float64Array.of(Math.PI, -1e300),
  float16: float16 ? new float16(halves.buffer) : halves,
  int8: Int8Array.of(-128, 127, 0),
  uint8: Uint8Array.of(0, 255),
  int16: Int16Array.of(-32768, 32767),
  uint16: Uint16Array.of(65535),
  int32: Int32Array.of(-(2 ** 31), 2 ** 31 - 1),
  uint32: Uint32Array.of(2 ** 32 - 1),
  int64: BigInt64Array.of(-(2n ** 63n), 2n ** 63n - 1n),
  uint64: BigUint64Array.of(2n ** 64n - 1n),
  bool: Uint8Array.of(1, 0, 1),
  string: ['', 'grün', 'a\u0000b', '日本語'],
};

describe('native/tensor types', () => {
  for (const [type, data] of Object.entries(cases)) {
    it(`${type} goes in and comes out`, async () => {
      const session = await InferenceSession.create(unaryModel('Identity', type as 'float32'));
      const x = new Tensor(type as 'float32', data as Float32Array, [data.length]);
      const { y } = await session.run({ x });
      assert.equal(y!.type, type);
      assert.deepEqual(y!.dims, [data.length]);
      assert.deepEqual(y!.data, x.data);
      assert.notEqual(y!.data, x.data);
      await session.release();
    });
  }

  // Two elements a byte, low nibble first; an odd count leaves half a byte.
  for (const [type, number, expected] of [
    ['int4', 22, [-8, 7, -1]],
    ['uint4', 21, [8, 7, 15]],
  ] as const) {
    it(`${type} goes in and comes out packed`, async () => {
      const into = await InferenceSession.create(castModel(type, 'float32', 1));
      const packed = new Tensor(type, Uint8Array.of(0x78, 0x0f) as never, [3]);
      const { y } = await into.run({ x: packed });
      assert.deepEqual(Array.from(y!.data as Float32Array), expected);
      await into.release();
      const outOf = await InferenceSession.create(castModel('float32', type, number));
      const back = (await outOf.run({ x: y! })).y!;
      assert.equal(back.type, type);
      assert.deepEqual(back.dims, [3]);
      assert.deepEqual(Array.from(back.data as Uint8Array), [0x78, 0x0f]);
      await outOf.release();
    });
  }

  it('float16 takes Uint16Array everywhere', async () => {
    const session = await InferenceSession.create(unaryModel('Neg', 'float16'));
    const { y } = await session.run({ x: new Tensor('float16', halves.slice(), [4]) });
    const bits = y!.data as Uint16Array;
    assert.deepEqual(
      Array.from(new Uint16Array(bits.buffer, bits.byteOffset, 4)),
      Array.from(halves, (half) => half ^ 0x8000),
    );
    await session.release();
  });

  it('names a type that no Tensor holds, and refuses only its data', async () => {
    const session = await InferenceSession.create(castModel('float32', 'bfloat16', 16));
    assert.equal((session.outputMetadata[0] as { type: string }).type, 'bfloat16');
    const x = new Tensor('float32', [1], [1]);
    await assert.rejects(session.run({ x }), /output "y": is bfloat16, expected one of float32/);
    await session.release();
  });

  it('reads shared memory and views into larger buffers', async () => {
    const session = await InferenceSession.create(unaryModel('Neg', 'float32'));
    const shared = new Float32Array(new SharedArrayBuffer(8));
    shared.set([1, 2]);
    const first = await session.run({ x: new Tensor('float32', shared, [2]) });
    assert.deepEqual(first.y!.data, Float32Array.of(-1, -2));
    const part = new Float32Array([9, 8, 7, 6]).subarray(1, 3);
    const second = await session.run({ x: new Tensor('float32', part, [2]) });
    assert.deepEqual(second.y!.data, Float32Array.of(-8, -7));
    await session.release();
  });
});
