import assert from 'node:assert/strict';
import { cpSync, mkdtempSync, realpathSync, rmSync, writeFileSync } from 'node:fs';
import { createRequire } from 'node:module';
import { tmpdir } from 'node:os';
import { dirname, join } from 'node:path';
import { Tensor, env } from '../../native/js/index.js';
import { runModule, runNode, runScript, type ChildResult } from '../helpers/child.js';
import { quantizeModel } from '../helpers/tiny-models.js';

/** What an unchanged program does with `ort`, onnxruntime-node's exports. Prints one JSON line. */
const program = (path: string) => `
  async function main(ort) {
    const { readFileSync } = await import('node:fs');
    const session = await ort.InferenceSession.create(${JSON.stringify(path)});
    let ticks = 0;
    const timer = setInterval(() => ticks++, 0);
    const x = new ort.Tensor('float32', Float32Array.of(1, -2, 127, 0), [1, 4]);
    const { q, scale } = await session.run({ x });
    clearInterval(timer);
    const files = readFileSync('/proc/self/maps', 'utf8').split('\\n').map((line) => line.split(/\\s+/)[5] ?? '');
    await session.release();
    console.log(JSON.stringify({
      q: Array.from(q.data), scale: Array.from(scale.data), inputs: session.inputNames, tensors: q instanceof ort.Tensor,
      runtimes: [...new Set(files.filter((file) => /libonnxruntime\\.so/.test(file)))],
      bindings: [...new Set(files.filter((file) => file.endsWith('.node')).map((file) => file.split('/').at(-1)))].sort(),
    }));
  }
`;

describe('native/register', () => {
  let folder: string;
  let source: string;
  before(() => {
    folder = mkdtempSync(join(tmpdir(), 'ort-lowbit-register-'));
    const path = join(folder, 'quantize.onnx');
    writeFileSync(path, quantizeModel(4));
    source = program(path);
  });
  after(() => rmSync(folder, { recursive: true, force: true }));

  function check({ code, stdout, stderr }: ChildResult): void {
    assert.equal(code, 0, stderr);
    assert.equal(stderr, '');
    const { runtimes, ...rest } = JSON.parse(stdout) as { runtimes: string[] };
    assert.deepEqual(rest, {
      q: [1, -2, 127, 0],
      scale: [1],
      inputs: ['x'],
      tensors: true,
      bindings: ['onnxruntime_binding.node', 'ort_lowbit_host.node'],
    });
    assert.equal(runtimes.length, 1, `one libonnxruntime, found ${runtimes.join(', ')}`);
  }
  const esm = () => `${source} import * as ort from 'onnxruntime-node'; await main(ort);`;
  const cjs = () => `${source} main(require('onnxruntime-node'));`;

  it('--import serves an ES module', async () => check(await runModule(esm(), ['--import', 'ort-lowbit/register'])));
  it('--import serves CommonJS', async () => check(await runScript(cjs(), ['--import', 'ort-lowbit/register'])));
  it('--require serves an ES module', async () => check(await runModule(esm(), ['--require', 'ort-lowbit/register'])));
  it('--require serves CommonJS', async () => check(await runScript(cjs(), ['--require', 'ort-lowbit/register'])));
  it('import before onnxruntime-node serves an ES module', async () => {
    check(await runModule(`import 'ort-lowbit/register'; ${esm()}`));
  });
  it('require before onnxruntime-node serves CommonJS', async () => {
    check(await runScript(`require('ort-lowbit/register'); ${cjs()}`));
  });
  it('serves worker threads of the program', async () => {
    const inWorker = `const { Worker } = require('node:worker_threads');
      new Worker(${JSON.stringify(cjs())}, { eval: true }).on('error', (e) => { console.error(e); process.exit(9); });`;
    check(await runScript(inWorker, ['--require', 'ort-lowbit/register']));
  });

  it('gives tensors of the class that onnxruntime-node exports', async () => {
    const theirs = (await import('onnxruntime-node')) as unknown as { Tensor: unknown; env: unknown };
    assert.equal(Tensor, theirs.Tensor);
    assert.equal(env, theirs.env);
  });

  it("uses the program's own onnxruntime-node, when that is another copy than ours", async () => {
    const require = createRequire(import.meta.url);
    for (const name of ['onnxruntime-node', 'onnxruntime-common']) {
      const from = join(dirname(require.resolve('onnxruntime-node/package.json')), '..', name);
      const otherPlatforms = /napi-v6[\\/](?:darwin|win32)/;
      cpSync(from, join(folder, 'node_modules', name), {
        recursive: true,
        filter: (file) => !otherPlatforms.test(file),
      });
    }
    const app = join(folder, 'app.cjs');
    writeFileSync(app, cjs());
    const result = await runNode(['--import', 'ort-lowbit/register', app]);
    check(result);
    const { runtimes } = JSON.parse(result.stdout) as { runtimes: string[] };
    assert.ok(runtimes[0]!.startsWith(realpathSync(folder)), runtimes[0]);
  });

  it('is needed: onnxruntime-node alone refuses the model', async () => {
    const { code, stderr } = await runScript(cjs());
    assert.notEqual(code, 0);
    assert.match(stderr, /lowbit/);
  });
});
