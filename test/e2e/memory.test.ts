import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { root, scratch } from '../cli/run-cli.js';
import { writeTinyModel } from '../cli/tiny-model.js';
import { rewriteModel } from './bookworm.js';

/** One copy of the weights, and what a session needs besides. */
const limit = 1.15;

/**
 * Run in a fresh process: how far resident memory grows when a model is loaded, and when a step has touched every weight. The runtime itself
 * is warmed up on a small model first, so that only the large one is counted.
 */
const probe = `
import { readFileSync } from 'node:fs';
const [library, lm, small, large] = process.argv.slice(1);
const { InferenceSession } = await import(library);
const { describeTextModel, stepFeeds } = await import(lm);
const resident = () => Number(/VmRSS:\\s+(\\d+)/.exec(readFileSync('/proc/self/status', 'utf8'))[1]) * 1024;
const step = (session) => session.run(stepFeeds(describeTextModel(session), [1, 2, 3, 4]));
await step(await InferenceSession.create(small));
const before = resident();
const session = await InferenceSession.create(large);
const loaded = resident() - before;
await step(session);
process.stdout.write(JSON.stringify({ loaded, used: resident() - before }));
`;

describe('e2e: memory', function () {
  this.timeout(300_000);
  const folder = scratch();
  after(() => folder.remove());

  it(`loading a 200 MB rewritten model, and running it, takes at most ${limit} times its file`, async function () {
    if (process.platform !== 'linux') this.skip();
    const large = { hidden: 2048, mlp: 5632, layers: 5, heads: 32, kvHeads: 4, headDim: 64 };
    const [float, small] = [folder.file('large.onnx'), folder.file('small.onnx')];
    await writeTinyModel(float, true, large);
    await writeTinyModel(small);
    const recipe = { recipe: 'w8a8', set: [] };
    const rewritten = await rewriteModel(float, folder.file('large_w8a8.onnx'), recipe);
    await rewriteModel(small, folder.file('small_w8a8.onnx'), recipe);
    rmSync(`${float}_data`);
    const bytes = rewritten.output.files.reduce((sum, file) => sum + statSync(file).size, 0);
    assert.ok(bytes > 190e6 && bytes < 250e6, `the file has ${bytes} bytes`);

    const modules = ['native/js/index.js', 'graph-rewrite/lm/index.js'].map((file) => join(root, 'dist', file));
    const models = [folder.file('small_w8a8.onnx'), folder.file('large_w8a8.onnx')];
    const words = ['--input-type=module', '--eval', probe, ...modules, ...models];
    const { loaded, used } = JSON.parse(execFileSync(process.execPath, words, { encoding: 'utf8' })) as Record<
      string,
      number
    >;
    assert.ok(loaded! <= limit * bytes, `loading took ${(loaded! / bytes).toFixed(3)} times the file`);
    assert.ok(used! <= limit * bytes, `running took ${(used! / bytes).toFixed(3)} times the file`);
    assert.ok(
      used! >= 0.5 * bytes,
      `running touched only ${(used! / bytes).toFixed(3)} of the weights: nothing was measured`,
    );
  });
});
