import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import type { RoundedLayer } from '../../graph-rewrite/index.js';
import { runCli } from './run-cli.js';
import { tinyFolder, writeTinyModel } from './tiny-model.js';

describe('cli: rewrite with GPTQ', function () {
  this.timeout(60_000);
  const { model, ids, ...folder } = tinyFolder();
  const words = [model, '--recipe', 'w4a16', '--set', 'weight.rounding=gptq'];

  it('reports what it gained by layer, and leaves nothing but the model', async () => {
    const result = await runCli([...words, '--calibration', ids, '-o', folder.file('a.onnx'), '--json']);
    assert.equal(result.code, 0, result.stderr);
    assert.match(result.stderr, /a\.onnx\.rounding: holds rounded layers until the model is written/);
    assert.match(result.stderr, /hessians: 100 %/);
    assert.match(result.stderr, /rounding: 100 %/);
    const { rounding, sites } = result.json() as {
      rounding: { layers: RoundedLayer[] };
      sites: { quantized: number };
    };
    assert.equal(rounding.layers.length, sites.quantized);
    for (const { name, gptq } of rounding.layers) assert.ok(gptq!.loss < gptq!.nearestLoss, name);
    assert.deepEqual(
      folder.entries().filter((entry) => entry.startsWith('a.onnx')),
      ['a.onnx', 'a.onnx_data'],
    );
  });

  it('gives the same model with one thread and with several', async () => {
    for (const threads of ['1', '3']) {
      const output = folder.file(`threads-${threads}.onnx`);
      const result = await runCli([...words, '--calibration', ids, '-o', output, '--threads', threads]);
      assert.equal(result.code, 0, result.stderr);
    }
    const data = (threads: number) => readFileSync(folder.file(`threads-${threads}.onnx_data`));
    assert.deepEqual(data(1), data(3));
  });

  it('says before anything runs that it needs data, for a plan too', async () => {
    const missing = await runCli(words);
    assert.equal(missing.code, 2);
    assert.match(missing.stderr, /--calibration: none given, .* which rounds weights by what flows through them/);
    const plan = folder.file('plan.json');
    const shown = await runCli([...words, '--calibration', ids, '--dry-run', '-o', plan]);
    assert.equal(shown.code, 0, shown.stderr);
    assert.match(shown.stdout, /GPTQ: 1 pass over the calibration data, .* beside the model/);
    assert.equal((await runCli([model, '--plan', plan, '-o', folder.file('b.onnx')])).code, 2);
    const carried = await runCli([model, '--plan', plan, '--calibration', ids, '-o', folder.file('b.onnx')]);
    assert.equal(carried.code, 0, carried.stderr);
    assert.match(carried.stdout, /rounded by GPTQ.*to nearest/);
    const other = await writeTinyModel(folder.file('other.onnx'), true, { mlp: 96 });
    const foreign = await runCli([other, '--plan', plan, '--calibration', ids, '-o', folder.file('c.onnx')]);
    assert.equal(foreign.code, 2);
    assert.match(foreign.stderr, /^plan: was made for the model/); // nothing was rounded for that
  });
});
