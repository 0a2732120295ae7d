import assert from 'node:assert/strict';
import { runModule } from '../helpers/child.js';

const host = new URL('../../native/js/index.js', import.meta.url).href;
const models = new URL('../helpers/tiny-models.js', import.meta.url).href;

/** A child's preamble: the host, and a model that runs for seconds. */
const preamble = `
  import { InferenceSession, Tensor } from ${JSON.stringify(host)};
  import { addSubModel, longModel, unaryModel } from ${JSON.stringify(models)};
  const square = (size) => new Tensor('float32', new Float32Array(size * size), [size, size]);
  const startLong = async () => {
    const session = await InferenceSession.create(longModel(512, 400), { logSeverityLevel: 4, graphOptimizationLevel: 'disabled' });
    const running = session.run({ x: square(512), w: square(512) });
    running.catch(() => {});
    await new Promise((resolve) => setTimeout(resolve, 20));
    return { session, running };
  };
`;

/** The same in a worker that posts 'ready' once its run is going. */
const worker = `
  import { Worker } from 'node:worker_threads';
  const code = ${JSON.stringify(`${preamble} import { parentPort } from 'node:worker_threads'; await startLong(); parentPort.postMessage('ready');`)};
  const worker = new Worker(new URL('data:text/javascript,' + encodeURIComponent(code)));
  await new Promise((resolve, reject) => worker.on('message', resolve).on('error', reject));
`;

describe('native/lifetime', () => {
  /** Programs that end in some way; each must end with its code, without a crash and without a word on stderr. */
  const endings: [name: string, source: string, code: number][] = [
    ['ends by itself with a session open', `${preamble} await InferenceSession.create(addSubModel());`, 0],
    ['ends by itself after release', `${preamble} await (await InferenceSession.create(addSubModel())).release();`, 0],
    [
      'waits for a run that nobody awaits',
      `${preamble}
      const session = await InferenceSession.create(longModel(64, 50));
      void session.run({ x: square(64), w: square(64) }).then(() => { process.exitCode = 7; });`,
      7,
    ],
    ['process.exit in the middle of a run', `${preamble} await startLong(); process.exit(5);`, 5],
    [
      'process.exit in the middle of a load',
      `${preamble}
      void InferenceSession.create(longModel(16, 600)); setTimeout(() => process.exit(6), 5);`,
      6,
    ],
    ['worker.terminate in the middle of a run', `${worker} await worker.terminate();`, 0],
    ['process.exit with a worker in the middle of a run', `${worker} process.exit(4);`, 4],
    [
      'results used after everything else is gone',
      `${preamble}
      const session = await InferenceSession.create(unaryModel('Neg', 'float32'));
      const { y } = await session.run({ x: new Tensor('float32', new Float32Array(1 << 20).fill(1), [1 << 20]) });
      await session.release();
      globalThis.kept = y;
      process.on('exit', () => { if (y.data[5] !== -1) process.exitCode = 1; });`,
      0,
    ],
  ];
  for (const [name, source, code] of endings) {
    it(name, async () => {
      const result = await runModule(source);
      assert.deepEqual(
        { code: result.code, signal: result.signal, stderr: result.stderr },
        { code, signal: null, stderr: '' },
      );
    });
  }

  it('an unhandled rejection ends the process with code 1, not with a crash', async () => {
    const result = await runModule(`${preamble} await startLong(); throw new Error('mine');`);
    assert.deepEqual([result.code, result.signal], [1, null]);
    assert.match(result.stderr, /mine/);
  });

  it('sessions in several workers and the main thread work at once', async () => {
    const code = `${preamble}
      import { parentPort } from 'node:worker_threads';
      const session = await InferenceSession.create(unaryModel('Neg', 'float32'));
      for (let i = 0; i < 20; i++) await session.run({ x: new Tensor('float32', new Float32Array(5000), [5000]) });
      await session.release();
      parentPort.postMessage('done');`;
    const result = await runModule(`${preamble}
      import { Worker } from 'node:worker_threads';
      const code = ${JSON.stringify(code)};
      const workers = Array.from({ length: 4 }, () => new Worker(new URL('data:text/javascript,' + encodeURIComponent(code))));
      const session = await InferenceSession.create(unaryModel('Neg', 'float32'));
      const done = workers.map((w) => new Promise((resolve, reject) => w.on('message', resolve).on('error', reject)));
      for (let i = 0; i < 20; i++) await session.run({ x: new Tensor('float32', new Float32Array(5000), [5000]) });
      console.log((await Promise.all(done)).join(' '));`);
    assert.deepEqual([result.code, result.stdout.trim(), result.stderr], [0, 'done done done done', '']);
  });

  it('run loops and sessions do not leak', async () => {
    // 400 runs with 1 MiB in and out would leave 400 to 800 MiB behind if either side were kept; garbage is collected
    // every 50 runs so that the bound measures what is held, not what waits.
    const result = await runModule(
      `${preamble}
      const rss = () => { gc(); return process.memoryUsage().rss / 2 ** 20; };
      const settle = () => new Promise((resolve) => setImmediate(resolve));
      const neg = await InferenceSession.create(unaryModel('Neg', 'float32'));
      const work = async (runs) => {
        for (let i = 0; i < runs; i++) {
          await neg.run({ x: new Tensor('float32', new Float32Array(1 << 18), [1 << 18]) });
          if (i % 50 === 0) { gc(); await settle(); }
        }
      };
      const bytes = addSubModel();
      const open = async (count) => { for (let i = 0; i < count; i++) await (await InferenceSession.create(bytes)).release(); };
      const drop = async (count) => { for (let i = 0; i < count; i++) { await InferenceSession.create(bytes); if (i % 20 === 0) { gc(); await settle(); } } };
      await work(50); await open(10); await drop(10); await settle();
      const before = rss();
      await work(400); const runs = rss() - before;
      await open(60); await drop(60); await settle(); await settle();
      console.log(JSON.stringify({ runs, sessions: rss() - before - runs }));`,
      ['--expose-gc'],
    );
    assert.equal(result.code, 0, result.stderr);
    const growth = JSON.parse(result.stdout) as { runs: number; sessions: number };
    assert.ok(growth.runs < 64, `400 runs grew by ${growth.runs} MiB`);
    assert.ok(growth.sessions < 64, `120 sessions grew by ${growth.sessions} MiB`);
  });
});
