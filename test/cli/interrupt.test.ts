import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { mkdirSync, readdirSync, symlinkSync, unlinkSync, writeFileSync } from 'node:fs';
import { hostname } from 'node:os';
import { claimLink, claimOutput } from '../../graph-rewrite/cli/claim.js';
import { runCli } from './run-cli.js';
import { tinyFolder } from './tiny-model.js';

describe('cli: a rewrite that does not come to its end leaves nothing behind', function () {
  this.timeout(60_000);
  // Large enough that there is a middle to stop in.
  const folder = tinyFolder({ hidden: 512, mlp: 1536, layers: 4, headDim: 128 }, 512 * 64);
  const inputs = ['ids.npy', 'model.onnx', 'model.onnx_data'];

  const data = ['--calibration', folder.ids, '--calibration-windows'];
  const words = [folder.model, '-o', folder.file('out.onnx'), ...data];

  for (const [stage, windows, ...settings] of [
    ['calibrate', '64'],
    ['smooth', '1', '--set', 'smooth.alpha=search'],
    ['save', '1'],
  ] as const) {
    it(`Ctrl-C during "${stage}": exit 130`, async () => {
      const interruptAt = new RegExp(`^${stage}: \\d+ %`, 'm');
      const result = await runCli([...words, windows, '--set', 'weight.rounding=rtn', ...settings], { interruptAt });
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
      const result = await runCli([folder.model, '-o', `${small}/out.onnx`, '--recipe', 'w4a16']);
      assert.equal(result.code, 3, result.stderr);
      assert.match(result.stderr, /out\.onnx: the disk is full, \d+ bytes are needed/);
      assert.deepEqual(readdirSync(small), []);
    } finally {
      if (mounted.status === 0) spawnSync('umount', [small]);
      spawnSync('rmdir', [small]);
    }
  });

  it('a watcher that goes away: the work goes on', async () => {
    // Its end is the pipe's first line; what comes after meets a closed pipe.
    const wrapper = ['bash', '-o', 'pipefail', '-c', '"$@" 2>&1 >/dev/null | head -n 1', 'watched'];
    const result = await runCli([...words, '1', '--set', 'weight.rounding=rtn', '--force'], { wrapper });
    assert.equal(result.code, 0);
    assert.match(result.stdout, /^calibrate: \d+ %\n$/);
    assert.deepEqual(folder.entries(), [...inputs, 'out.onnx', 'out.onnx_data']);
  });

  it('a claim that ends takes unfinished files with it: a second Ctrl-C does not wait for the first', () => {
    const output = folder.file('claimed.onnx');
    const release = claimOutput(output);
    writeFileSync(folder.file(`.claimed.onnx_data.${process.pid}-abc.tmp`), 'half');
    release();
    assert.ok(!folder.entries().some((entry) => entry.includes('claimed')));
  });

  it('a claim of a killed process that had the number of this one is no obstacle', () => {
    symlinkSync(`${process.pid}@${hostname()}`, claimLink(folder.file('again.onnx')));
    claimOutput(folder.file('again.onnx'))();
    assert.ok(!folder.entries().some((entry) => entry.includes('again')));
  });

  it('an output that another rewrite is writing is left to it; of one that was killed nothing is left', async () => {
    const link = claimLink(folder.file('out.onnx'));
    const again = [folder.model, '-o', folder.file('out.onnx'), '--recipe', 'w4a16', '--force'];
    symlinkSync(`${process.pid}@${hostname()}`, link);
    const refused = await runCli(again);
    assert.equal(refused.code, 2, refused.stderr);
    assert.match(refused.stderr, /out\.onnx: is being written by another rewrite \(process \d+ on /);
    unlinkSync(link);
    symlinkSync(`999999999@${hostname()}`, link);
    for (const file of ['out.onnx', 'out.onnx_data']) writeFileSync(folder.file(`.${file}.999999999-abc.tmp`), 'half');
    const done = await runCli(again);
    assert.equal(done.code, 0, done.stderr);
    assert.deepEqual(folder.entries(), [...inputs, 'out.onnx', 'out.onnx_data']);
  });
});
