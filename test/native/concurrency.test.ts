import assert from 'node:assert/strict';
import { readFile } from 'node:fs/promises';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { longModel, unaryModel } from '../helpers/tiny-models.js';

const size = 256;
const square = (value: number) => new Tensor('float32', new Float32Array(size * size).fill(value), [size, size]);

describe('native/concurrency', () => {
  it('leaves the event loop free during a run', async () => {
    const session = await InferenceSession.create(longModel(size, 100));
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    await session.run({ x: square(1), w: square(0) });
    clearInterval(timer);
    assert.ok(ticks >= 3, `${ticks} timer ticks during the run`);
    await session.release();
  });

  it('leaves the event loop free while a model loads', async () => {
    const bytes = longModel(16, 600);
    let ticks = 0;
    const timer = setInterval(() => ticks++, 1);
    const session = await InferenceSession.create(bytes);
    clearInterval(timer);
    assert.ok(ticks >= 3, `${ticks} timer ticks during the load`);
    await session.release();
  });

  it('runs many at once, on one session and on several, each with its own result', async () => {
    const bytes = unaryModel('Neg', 'float32');
    const sessions = await Promise.all(Array.from({ length: 3 }, () => InferenceSession.create(bytes)));
    const runs = Array.from({ length: 120 }, async (_, i) => {
      const x = new Tensor('float32', new Float32Array(10_000).fill(i), [10_000]);
      const { y } = await sessions[i % 3]!.run({ x });
      assert.ok((y!.data as Float32Array).every((value) => value === -i));
    });
    await Promise.all(runs);
    await Promise.all(sessions.map((session) => session.release()));
  });

  it('leaves the pool of file reads free, however many runs wait', async () => {
    const session = await InferenceSession.create(longModel(size, 60));
    let finished = 0;
    const runs = Array.from({ length: 12 }, async () => {
      await session.run({ x: square(1), w: square(0) });
      finished++;
    });
    await readFile(new URL(import.meta.url));
    assert.ok(finished < 12, 'the file was read before the last run ended');
    await Promise.all(runs);
    await session.release();
  });

  it('a signal ends a run, with its reason', async () => {
    const session = await InferenceSession.create(longModel(size, 600), { logSeverityLevel: 4 });
    const controller = new AbortController();
    const reason = new Error('changed my mind');
    const running = session.run({ x: square(1), w: square(0) }, { signal: controller.signal });
    setTimeout(() => controller.abort(reason), 20);
    await assert.rejects(running, reason);
    await assert.rejects(session.run({ x: square(1), w: square(0) }, { signal: controller.signal }), reason);
    const { y } = await session.run({ x: square(0), w: square(0) }, ['y'], { signal: new AbortController().signal });
    assert.equal(y!.dims[0], size);
    await session.release();
  });

  it('a signal ends only its own run', async () => {
    const session = await InferenceSession.create(longModel(size, 300), { logSeverityLevel: 4 });
    const controller = new AbortController();
    const stopped = session.run({ x: square(1), w: square(0) }, { signal: controller.signal });
    const kept = session.run({ x: square(1), w: square(0) });
    setTimeout(() => controller.abort(), 5);
    await assert.rejects(stopped, { name: 'AbortError' });
    assert.ok((await kept).y);
    await session.release();
  });

  it('runOptions.terminate ends the run at its first node', async () => {
    const session = await InferenceSession.create(longModel(size, 2), { logSeverityLevel: 4 });
    await assert.rejects(session.run({ x: square(1), w: square(0) }, { terminate: true }), /terminate/);
    await session.release();
  });

  it('release waits for runs that have not started yet', async () => {
    const session = await InferenceSession.create(longModel(size, 20));
    const runs = Array.from({ length: 20 }, () => session.run({ x: square(1), w: square(0) }));
    const released = session.release();
    assert.equal((await Promise.all(runs)).length, 20);
    await released;
  });
});
