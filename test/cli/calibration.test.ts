import assert from 'node:assert/strict';
import { readFileSync, writeFileSync } from 'node:fs';
import { runCli } from './run-cli.js';
import { tinyFolder } from './tiny-model.js';

describe('cli: windows of calibration data', function () {
  this.timeout(60_000);
  const { model, ids, ...folder } = tinyFolder();
  const words = [model, '--calibration', ids, '--set', 'weight.rounding=rtn'];

  it('are as many and as long as asked for', async () => {
    const plans = new Set<string>();
    for (const windows of [[], ['--calibration-length', '16'], ['--calibration-length', '8']]) {
      const plan = folder.file(`plan-${plans.size}.json`);
      const result = await runCli([...words, ...windows, '--calibration-windows', '2', '--dry-run', '-o', plan]);
      assert.equal(result.code, 0, result.stderr);
      plans.add(readFileSync(plan, 'utf8')); // statistics of other tokens give other orders
    }
    assert.equal(plans.size, 3);
  });

  it('longer than the position table are refused with both numbers', async () => {
    const result = await runCli([...words, '--calibration-length', '3000']);
    assert.equal(result.code, 2);
    assert.match(result.stderr, /length: is 3000, expected at most \d+, the rows of the model's position table/);
  });

  it('are refused with recorded feeds, which are run as they are', async () => {
    const feeds = folder.file('feeds.npz');
    writeFileSync(feeds, '');
    for (const option of ['--calibration-windows', '--calibration-length']) {
      const result = await runCli([model, '--calibration', feeds, option, '4']);
      assert.equal(result.code, 2);
      assert.match(result.stderr, new RegExp(`${option}: given with recorded feeds, which are run as they are`));
    }
  });
});
