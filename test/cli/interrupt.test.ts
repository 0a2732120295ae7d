import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, writeFileSync } from 'node:fs';
import { runCli, scratch } from './run-cli.js';
import { tokenFile, writeTinyModel } from './tiny-model.js';

describe('cli: a rewrite that does not come to its end leaves nothing behind', function () {
  this.timeout(60_000);
  const folder = scratch();
  const inputs = ['ids.npy', 'model.onnx', 'model.onnx_data'];

  before(async () => {
    // Large enough that there is a middle to stop in.
    await writeTinyModel(folder.file('model.onnx'), true, { hidden: 512, mlp: 1536, layers: 4, headDim: 128 });
    writeFileSync(folder.file('ids.npy'), tokenFile(512 * 64));
  });
  after(() => folder.remove());

  const data = ['--calibration', folder.file('ids.npy'), '--calibration-windows'];
  const words = [folder.file('model.onnx'), '-o', folder.file('out.onnx'), ...data];

  for (const [stage, windows] of [
    ['calibrate', '64'],
    ['save', '1'],
  ] as const) {
    it(`Ctrl-C during "${stage}": exit 130`, async () => {
      const interruptAt = new RegExp(`^${stage}: \\d+ %`, 'm');
      const result = await runCli([...words, windows, '--set', 'weight.rounding=rtn'], { interruptAt });
      assert.equal(result.code, 130, result.stderr);
      assert.match(result.stderr, /interrupted/);
      assert.deepEqual(folder.entries(), inputs);
    });
  }

  it('Ctrl-C during GPTQ: exit 130, rounded layers are kept for the next try, which tidies up', async () => {
    const gptq = [...words, '1', '--set', 'weight.rounding=gptq'];
    const result = await runCli(gptq, { interruptAt: /^rounding: \d+ %/m });
    assert.equal(result.code, 130, result.stderr);
    assert.match(result.stderr, /out\.onnx\.rounding: holds rounded layers/);
    assert.deepEqual(folder.entries(), [...inputs, 'out.onnx.rounding']);
    const again = await runCli(gptq);
    assert.equal(again.code, 0, again.stderr);
    assert.deepEqual(folder.entries(), [...inputs, 'out.onnx', 'out.onnx_data']);
  });

  it('a full disk: exit 3', async function () {
    const small = folder.file('small');
    mkdirSync(small);
    const mounted = spawnSync('mount', ['-t', 'tmpfs', '-o', 'size=64k', 'tmpfs', small]);
    try {
      if (mounted.status !== 0) {
        this.test!.title += ' (no right to mount a small disk here)';
        this.skip();
      }
      const result = await runCli([folder.file('model.onnx'), '-o', `${small}/out.onnx`, '--recipe', 'w4a16']);
      assert.equal(result.code, 3, result.stderr);
      assert.match(result.stderr, /out\.onnx: the disk is full, \d+ bytes are needed/);
      assert.deepEqual(readdirSync(small), []);
    } finally {
      if (mounted.status === 0) spawnSync('umount', [small]);
      spawnSync('rmdir', [small]);
    }
  });
});
