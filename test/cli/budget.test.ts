import assert from 'node:assert/strict';
import type { BudgetReport } from '../../graph-rewrite/plan/index.js';
import { runCli } from './run-cli.js';
import { tinyFolder } from './tiny-model.js';

interface Report {
  readonly budget: BudgetReport;
  readonly sites: { readonly quantized: number };
}

describe('cli: rewrite --budget', function () {
  this.timeout(120_000);
  const { model, ids, ...folder } = tinyFolder();

  const words = [model, '--recipe', 'w4a4', '--calibration', ids, '--force', '--json', '--quiet'];
  async function rewriteWithin(budget: number, output: string): Promise<Report> {
    const result = await runCli([...words, '--budget', String(budget), '-o', output]);
    assert.equal(result.code, 0, result.stderr);
    return result.json() as unknown as Report;
  }
  async function divergence(rewritten: string): Promise<number> {
    const result = await runCli(['compare', model, rewritten, '--tokens', ids, '--json', '--quiet']);
    assert.equal(result.code, 0, result.stderr);
    return (result.json() as { klDivergence: number }).klDivergence;
  }

  it('keeps the worst layers at 8 bits, no more than it takes, and the model then loses less', async () => {
    const [plain, bounded] = [folder.file('plain.onnx'), folder.file('bounded.onnx')];
    const { budget: all } = await rewriteWithin(1e9, plain);
    assert.ok(all.groups.every(({ lossAt8Bits }) => lossAt8Bits === undefined));
    assert.ok(all.groups.every(({ loss, weights }) => loss > 0 && weights > 0));

    const limit = all.predicted / 2;
    const { budget } = await rewriteWithin(limit, bounded);
    assert.ok(budget.predicted <= limit);
    const moved = budget.groups.filter(({ lossAt8Bits }) => lossAt8Bits !== undefined);
    const others = budget.groups.filter((group) => !moved.includes(group));
    assert.ok(moved.length > 0 && others.length > 0);
    const mildest = moved.reduce((a, b) => (a.loss < b.loss ? a : b));
    assert.ok(
      others.every(({ loss }) => loss <= mildest.loss),
      'the worst go first',
    );
    assert.ok(budget.predicted + mildest.loss - mildest.lossAt8Bits! > limit, 'one fewer would not do');
    assert.ok((await divergence(bounded)) < (await divergence(plain)));
  });

  it('says so when even 8 bits everywhere lose more, and writes nothing', async () => {
    const output = folder.file('never.onnx');
    const result = await runCli([...words, '--budget', '1e-12', '-o', output]);
    assert.equal(result.code, 3);
    assert.match(result.stdout, /budget: is 1e-12 nats a token, and with all layers at 8 bits the predicted loss is/);
    assert.ok(!folder.entries().includes('never.onnx'));
  });

  it('asks for a number above 0 before it reads anything', async () => {
    for (const budget of ['0', '-1', 'NaN', 'Infinity', 'much']) {
      const result = await runCli(['no-model.onnx', '--budget', budget]);
      assert.equal(result.code, 2);
      assert.match(result.stderr, /^--budget: ".*" given, expected a number above 0/);
    }
  });

  it('asks for data to measure on', async () => {
    const result = await runCli([model, '--recipe', 'w4a16', '--budget', '0.1']);
    assert.equal(result.code, 2);
    assert.match(result.stderr, /^--calibration: none given, expected data to measure the loss on for --budget/);
  });
});
