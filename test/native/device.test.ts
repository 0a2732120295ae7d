/**
 * Device tensors as far as a CPU shows them: a CPU session's device is plain memory, behind the same native calls, the same
 * IoBinding and the same handles. What needs a GPU is in the GPU tests.
 */
import assert from 'node:assert/strict';
import type { NativeDeviceTensor, NativeOutput, NativeSession } from '../../native/js/addon.js';
import { copyToDevice, DeviceBuffer, deviceTensor } from '../../native/js/device.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { loadNative } from '../../native/js/load.js';
import { checkGraphRun } from '../../native/js/session.js';
import { addSubModel, unaryModel } from '../helpers/tiny-models.js';

const { addon } = loadNative();
const options = { freeDimensionOverrides: [], config: [], externalData: [] };
const bytesOf = (data: Float32Array) => new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
const float32 = 1;

let nextId = 1;
/** y = −x, both on the device; y into `into`, or into new memory. */
async function negate(session: NativeSession, x: NativeDeviceTensor, into: NativeDeviceTensor | true = true) {
  const [y] = await addon.run(session, nextId++, ['x'], [x], ['y'], [into], { config: [] });
  return y;
}

describe('native/device tensors', () => {
  let session: NativeSession;
  before(async () => (session = await addon.createSession(unaryModel('Neg', 'float32'), options)));
  after(() => addon.release(session));

  const upload = async (...values: number[]) => {
    const handle = await addon.allocate(session, float32, [4]);
    await addon.upload(handle, bytesOf(Float32Array.from(values)));
    return handle;
  };
  const download = async (handle: NativeDeviceTensor) =>
    Array.from(new Float32Array(await addon.download(handle, 0, 16)));

  it('keeps an output on the device and feeds it to the next run', async () => {
    const first = (await negate(session, await upload(1, 2, 3, 4))) as NativeOutput;
    assert.deepEqual([first.type, first.dims, first.byteLength], [float32, [4], 16]);
    const handle = first.data as NativeDeviceTensor;
    assert.deepEqual(await download(handle), [-1, -2, -3, -4]);
    const second = (await negate(session, handle)) as NativeOutput;
    assert.deepEqual(await download(second.data as NativeDeviceTensor), [1, 2, 3, 4]);
  });

  it('fills a given device tensor in place, and one that is input and output at once', async () => {
    const target = await upload(0, 0, 0, 0);
    assert.equal(await negate(session, await upload(1, 2, 3, 4), target), null);
    assert.deepEqual(await download(target), [-1, -2, -3, -4]);
    assert.equal(await negate(session, target, target), null);
    assert.deepEqual(await download(target), [1, 2, 3, 4]);
  });

  it('is overwritten in place, with exactly its bytes', async () => {
    const handle = await upload(1, 1, 1, 1);
    await addon.upload(handle, bytesOf(Float32Array.of(5, 6, 7, 8)));
    assert.deepEqual(await download(handle), [5, 6, 7, 8]);
    assert.throws(() => addon.upload(handle, new Uint8Array(4)), /upload: 4 bytes, expected the tensor's 16/);
  });

  it('cannot be used once disposed, which may be said twice', async () => {
    const handle = await upload(1, 1, 1, 1);
    addon.dispose(handle);
    addon.dispose(handle);
    assert.throws(() => addon.download(handle, 0, 16), /it was disposed/);
    await assert.rejects(async () => negate(session, handle), /it was disposed/);
  });

  it('outlives the session, but is not copied any more', async () => {
    const other = await addon.createSession(unaryModel('Neg', 'float32'), options);
    const { data } = (await negate(other, await upload(1, 2, 3, 4))) as NativeOutput;
    await addon.release(other);
    await assert.rejects(addon.download(data as NativeDeviceTensor, 0, 16), /session: it was released/);
    assert.deepEqual(
      await download(((await negate(session, data as NativeDeviceTensor)) as NativeOutput).data as never),
      [1, 2, 3, 4],
    );
  });

  it('other handles are refused', () => {
    assert.throws(() => addon.download(session as never, 0, 16), /not one of ours/);
    assert.throws(() => addon.describeSession({} as never), /not a session handle/);
  });

  it('is a Tensor: location, size, getData, dispose', async () => {
    const tensor = deviceTensor('float32', [4], await upload(1, 2, 3, 4), 16);
    assert.ok(tensor instanceof Tensor);
    assert.equal(tensor.location, 'gpu-buffer');
    assert.ok(DeviceBuffer.isOurs(tensor.gpuBuffer));
    assert.equal(tensor.gpuBuffer.size, 16);
    assert.throws(() => tensor.data, /not on CPU/);
    assert.deepEqual(await tensor.getData(true), Float32Array.of(1, 2, 3, 4));
    assert.equal(tensor.location, 'cpu');
    const gone = deviceTensor('float32', [4], await upload(1, 2, 3, 4), 16);
    gone.dispose();
    assert.equal(gone.location, 'none');
  });

  it('may have any type of fixed size', async () => {
    const handle = await addon.allocate(session, 3, [2]);
    const tensor = deviceTensor('int8', [2], handle, 2);
    await copyToDevice(new Tensor('int8', Int8Array.of(-3, 3), [2]), tensor);
    assert.equal(tensor.type, 'int8');
    assert.deepEqual(await tensor.getData(), Int8Array.of(-3, 3));
    const other = new Tensor('int8', Int8Array.of(1), [1]);
    await assert.rejects(copyToDevice(other, tensor), /is int8\[2\], expected int8\[1\]/);
  });

  it('feeds a session of the public interface', async () => {
    const open = await InferenceSession.create(addSubModel());
    const handle = await addon.allocate(session, float32, [1, 3]);
    await addon.upload(handle, bytesOf(Float32Array.of(1, 2, 3)));
    const a = deviceTensor('float32', [1, 3], handle, 12);
    const { sum } = await open.run({ a, b: a });
    assert.deepEqual(sum!.data, Float32Array.of(2, 4, 6));
    const foreign = Tensor.fromGpuBuffer({ size: 12, mapState: 'unmapped' }, { dataType: 'float32', dims: [1, 3] });
    await assert.rejects(open.run({ a: foreign, b: a }), /^LowbitError: input "a": its gpuBuffer is not one of ours/);
    await assert.rejects(open.toDevice(a), /it runs on the CPU, expected 'cuda'/);
    await open.release();
  });

  it('a run with a CUDA graph needs every tensor on the device', async () => {
    const cpu = new Tensor('float32', new Float32Array(4), [4]);
    const device = deviceTensor('float32', [4], await upload(1, 2, 3, 4), 16);
    checkGraphRun({ x: device }, { y: device }, []);
    checkGraphRun({ x: cpu }, { y: null }, [['gpu_graph_id', '-1']]);
    assert.throws(() => checkGraphRun({ x: cpu }, { y: null }, []), /run: "x", "y" not on the device/);
  });
});
