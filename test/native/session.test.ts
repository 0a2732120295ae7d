import assert from 'node:assert/strict';
import { existsSync, mkdtempSync, readFileSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { addSubModel, longModel, tensorOf, unaryModel, weightModel } from '../helpers/tiny-models.js';

describe('native/session', () => {
  let folder: string;
  before(() => (folder = mkdtempSync(join(tmpdir(), 'ort-lowbit-session-'))));
  after(() => rmSync(folder, { recursive: true, force: true }));

  const a = () => new Tensor('float32', Float32Array.of(1, 2, 3), [1, 3]);
  const b = () => new Tensor('float32', Float32Array.of(10, 20, 30), [1, 3]);

  it('loads a path, bytes, a buffer and a part of a buffer', async () => {
    const bytes = addSubModel();
    const path = join(folder, 'model.onnx');
    writeFileSync(path, bytes);
    const padded = new Uint8Array(bytes.length + 7);
    padded.set(bytes, 7);
    const sessions = await Promise.all([
      InferenceSession.create(path),
      InferenceSession.create(bytes),
      InferenceSession.create(new Uint8Array(bytes).buffer),
      InferenceSession.create(padded.subarray(7)),
      InferenceSession.create(padded.buffer, 7, bytes.length, { intraOpNumThreads: 1 }),
    ]);
    for (const session of sessions) {
      const { sum } = await session.run({ a: a(), b: b() });
      assert.deepEqual(sum!.data, Float32Array.of(11, 22, 33));
      await session.release();
    }
  });

  it('names inputs and outputs, with types and symbolic dimensions', async () => {
    const session = await InferenceSession.create(addSubModel());
    assert.deepEqual(session.inputNames, ['a', 'b']);
    assert.deepEqual(session.outputNames, ['sum', 'difference']);
    const metadata = (name: string) => ({ name, isTensor: true, type: 'float32', shape: ['rows', 3] });
    assert.deepEqual(session.inputMetadata, [metadata('a'), metadata('b')]);
    assert.deepEqual(session.outputMetadata, [metadata('sum'), metadata('difference')]);
    await session.release();
  });

  it('takes tensors of the other build of onnxruntime-common', async () => {
    const esm = await import('onnxruntime-common');
    const session = await InferenceSession.create(addSubModel());
    const x = new esm.Tensor('float32', [1, 2, 3], [1, 3]);
    const { sum } = await session.run({ a: x, b: x });
    assert.deepEqual(sum!.data, Float32Array.of(2, 4, 6));
    await session.release();
  });

  it('computes only the outputs asked for', async () => {
    const session = await InferenceSession.create(addSubModel());
    assert.deepEqual(Object.keys(await session.run({ a: a(), b: b() }, ['difference'])), ['difference']);
    assert.deepEqual(Object.keys(await session.run({ a: a(), b: b() }, { sum: null }, { tag: 't' })), ['sum']);
    assert.deepEqual(Object.keys(await session.run({ a: a(), b: b() }, { tag: 'only options' })), [
      'sum',
      'difference',
    ]);
    await session.release();
  });

  it('fills pre-allocated outputs in place', async () => {
    const session = await InferenceSession.create(addSubModel(), { logSeverityLevel: 4 });
    const memory = new Float32Array(3);
    const mine = new Tensor('float32', memory, [1, 3]);
    const { sum, difference } = await session.run({ a: a(), b: b() }, { sum: mine, difference: null });
    assert.equal(sum, mine);
    assert.deepEqual(memory, Float32Array.of(11, 22, 33));
    assert.deepEqual(difference!.data, Float32Array.of(-9, -18, -27));
    const wrong = new Tensor('float32', new Float32Array(6), [2, 3]);
    await assert.rejects(session.run({ a: a(), b: b() }, { sum: wrong }), /shape/i);
    await session.release();
  });

  it('keeps results alive after release, large and small', async () => {
    const session = await InferenceSession.create(unaryModel('Neg', 'float32'));
    const count = 1 << 20;
    const { y } = await session.run({ x: new Tensor('float32', new Float32Array(count).fill(2), [count]) });
    await session.release();
    assert.ok((y!.data as Float32Array).every((value) => value === -2));
  });

  it('never hands out memory that an input owns', async () => {
    const session = await InferenceSession.create(unaryModel('Identity', 'float32'));
    const x = new Float32Array(1 << 16).fill(1);
    const { y } = await session.run({ x: new Tensor('float32', x, [x.length]) });
    x.fill(5);
    assert.equal((y!.data as Float32Array)[0], 1);
    await session.release();
  });

  it('runs empty tensors and scalars', async () => {
    const rows = await InferenceSession.create(addSubModel());
    const empty = new Tensor('float32', new Float32Array(0), [0, 3]);
    const { sum } = await rows.run({ a: empty, b: empty });
    assert.deepEqual([sum!.dims, sum!.data.length], [[0, 3], 0]);
    await rows.release();
    const scalar = await InferenceSession.create(unaryModel('Neg', 'float32', []));
    const { y } = await scalar.run({ x: new Tensor('float32', Float32Array.of(4), []) });
    assert.deepEqual([y!.dims, y!.data], [[], Float32Array.of(-4)]);
    await scalar.release();
  });

  it('release waits for runs, refuses later ones and may be called again', async () => {
    const session = await InferenceSession.create(longModel(128, 50));
    const x = new Tensor('float32', new Float32Array(128 * 128), [128, 128]);
    const running = session.run({ x, w: x });
    const released = session.release();
    assert.equal((await running).y!.dims[0], 128);
    await released;
    await session.release();
    await assert.rejects(session.run({ x, w: x }), /it was released, expected an open session/);
    assert.throws(() => session.endProfiling(), /it was released/);
  });

  it('is disposed by `await using`', async function () {
    const asyncDispose = (Symbol as { asyncDispose?: symbol }).asyncDispose;
    if (!asyncDispose) return this.skip();
    const session = await InferenceSession.create(addSubModel());
    await (session as unknown as Record<symbol, () => Promise<void>>)[asyncDispose]!();
    await assert.rejects(session.run({ a: a(), b: b() }), /released/);
  });

  it('reads external data beside the model, or from memory', async () => {
    const path = join(folder, 'external.onnx');
    const weight = tensorOf(Float32Array.from({ length: 1024 }, (_, i) => i));
    const { files } = await saveModel(weightModel(weight), path, { externalThreshold: 1024 });
    const x = new Tensor('float32', new Float32Array(1024).fill(0.5), [1024]);
    const check = async (session: InferenceSession) => {
      const { y } = await session.run({ x });
      assert.equal((y!.data as Float32Array)[1000], 1000.5);
      await session.release();
    };
    await check(await InferenceSession.create(path));
    await check(await InferenceSession.create(path, { externalData: ['external.onnx_data'] }));
    const data = readFileSync(files[1]!);
    const bytes = readFileSync(path);
    await check(await InferenceSession.create(bytes, { externalData: [{ path: 'external.onnx_data', data }] }));
    const elsewhere = { path: 'external.onnx_data', data: files[1]! };
    await check(await InferenceSession.create(bytes, { externalData: [elsewhere] }));
    await assert.rejects(InferenceSession.create(bytes), /cannot be loaded/);
  });

  it('writes the optimized model and the profile', async () => {
    const optimizedModelFilePath = join(folder, 'optimized.onnx');
    const session = await InferenceSession.create(addSubModel(), {
      optimizedModelFilePath,
      enableProfiling: true,
      profileFilePrefix: join(folder, 'profile'),
      graphOptimizationLevel: 'basic',
      executionMode: 'parallel',
      interOpNumThreads: 2,
      enableMemPattern: false,
      enableCpuMemArena: false,
      logSeverityLevel: 3,
      logId: 'test',
      extra: { session: { set_denormal_as_zero: '1' } },
    });
    session.startProfiling();
    await session.run({ a: a(), b: b() });
    const profile = session.endProfiling();
    assert.ok(JSON.parse(readFileSync(profile, 'utf8')));
    assert.ok(existsSync(optimizedModelFilePath));
    assert.equal(loadModel(optimizedModelFilePath).graph.inputs.length, 2);
    await session.release();
    const plain = await InferenceSession.create(addSubModel());
    assert.throws(() => plain.endProfiling(), /options.enableProfiling: is false/);
    await plain.release();
  });

  it('fixes free dimensions', async () => {
    const session = await InferenceSession.create(addSubModel(), { freeDimensionOverrides: { rows: 1 } });
    assert.deepEqual((session.inputMetadata[0] as { shape: unknown }).shape, [1, 3]);
    await session.release();
  });

  it('says which model does not load and why', async () => {
    const missing = join(folder, 'missing.onnx');
    await assert.rejects(InferenceSession.create(missing), { name: 'LowbitError', code: 'input', at: missing });
    await assert.rejects(InferenceSession.create(Uint8Array.of(1, 2, 3)), /model of 3 bytes: cannot be loaded/);
    await assert.rejects(InferenceSession.create(new Uint8Array(0)), /model of 0 bytes: cannot be loaded/);
    await assert.rejects(InferenceSession.create(5 as unknown as string), {
      name: 'TypeError',
      message: /^model: is 5/,
    });
    await assert.rejects(InferenceSession.create(new ArrayBuffer(8), 4, 9), { name: 'RangeError' });
  });
});
