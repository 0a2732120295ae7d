import assert from 'node:assert/strict';
import { readFileSync, statSync } from 'node:fs';
import { runCli } from './run-cli.js';
import { tinyFolder, writeTinyModel } from './tiny-model.js';

describe('cli: rewrite, inspect, eval, compare on a small model', function () {
  this.timeout(60_000);
  const { model, ids, ...folder } = tinyFolder();

  /** Runs a command that must succeed, with --json. */
  async function json<T>(...words: string[]): Promise<T> {
    const result = await runCli([...words, '--json', '--quiet']);
    assert.equal(result.code, 0, result.stderr);
    assert.equal(result.stderr, '', '--quiet is quiet');
    return result.json() as T;
  }

  it('writes next to the model, reports what the issue names, and never touches the input', async () => {
    const before = [readFileSync(model), readFileSync(`${model}_data`)];
    const report = await json<Record<string, unknown>>(model, '--recipe', 'w8a8');
    const { input, output, sites, kept, seconds, peakRssBytes } = report as {
      input: { bytes: number };
      output: { bytes: number; path: string; files: string[] };
      sites: { quantized: number; kept: number };
      kept: { name: string; reason: string }[];
      seconds: number;
      peakRssBytes: number;
    };
    assert.equal(output.path, folder.file('model_w8a8.onnx'));
    assert.equal(input.bytes, statSync(model).size + statSync(`${model}_data`).size);
    assert.equal(
      output.bytes,
      output.files.reduce((sum, file) => sum + statSync(file).size, 0),
    );
    assert.equal(kept.length, sites.kept);
    assert.ok(sites.quantized > 0 && seconds > 0 && peakRssBytes > 1e6);
    assert.ok(kept.every(({ name, reason }) => name !== '' && reason !== ''));
    assert.deepEqual([readFileSync(model), readFileSync(`${model}_data`)], before);
  });

  it('a plan written by --dry-run, carried out, gives the same bytes as the direct way', async () => {
    const words = ['--set', 'weight.rounding=rtn', '--set', 'outliers.channels=16', '--calibration', ids];
    const plan = folder.file('plan.json');
    await json(model, ...words, '--dry-run', '-o', plan);
    const viaPlan = await json<{ output: { files: string[] } }>(model, '--plan', plan, '-o', folder.file('a.onnx'));
    const direct = await json<{ output: { files: string[] } }>(model, ...words, '-o', folder.file('b.onnx'));
    assert.deepEqual(readFileSync(viaPlan.output.files[1]!), readFileSync(direct.output.files[1]!));
  });

  it('--dry-run shows every layer and writes nothing', async () => {
    const before = folder.entries();
    const shown = await runCli([model, '--recipe', 'w4a16', '--dry-run']);
    assert.equal(shown.code, 0, shown.stderr);
    const { linears } = await json<{ linears: { name: string }[] }>('inspect', model);
    for (const { name } of linears) assert.ok(shown.stdout.includes(name), name);
    assert.deepEqual(folder.entries(), before);
  });

  it('--target changes how codes are stored, not what they say', async () => {
    const perplexities = [];
    for (const target of ['any', 'sm90']) {
      const output = folder.file(`${target}.onnx`);
      await json(model, '--recipe', 'w4a4-g128', '--target', target, '-o', output);
      assert.equal(readFileSync(output).includes('s4_e4m3'), target === 'sm90');
      perplexities.push((await json<{ perplexity: number }>('eval', output, '--tokens', ids)).perplexity);
    }
    assert.equal(perplexities[0], perplexities[1]);
  });

  it('--force replaces, without it an existing output is refused', async () => {
    const words = [model, '--recipe', 'w4a16', '-o', folder.file('again.onnx')];
    assert.equal((await runCli(words)).code, 0);
    assert.equal((await runCli(words)).code, 2);
    assert.equal((await runCli([...words, '--force'])).code, 0);
  });

  it('inspect lists role, shape and the verdict of every linear layer', async () => {
    const { linears } = await json<{ linears: { role: string; K: number; N: number; quantizable: boolean }[] }>(
      'inspect',
      model,
    );
    const roles = new Set(linears.map(({ role }) => role));
    for (const role of ['o_proj', 'gate_proj', 'up_proj', 'down_proj', 'lm_head']) assert.ok(roles.has(role), role);
    assert.ok(linears.every(({ K, N, quantizable }) => K > 0 && N > 0 && typeof quantizable === 'boolean'));
  });

  it('eval counts tokens; progress goes to stderr only', async () => {
    const { perplexity, tokens, seconds } = await json<{ perplexity: number; tokens: number; seconds: number }>(
      ...['eval', model, '--tokens', ids, '--length', '128', '--windows', '3'],
    );
    assert.ok(Number.isFinite(perplexity) && perplexity > 1 && seconds > 0);
    assert.equal(tokens, 384);
    const loud = await runCli(['eval', model, '--tokens', ids, '--length', '128', '--windows', '3']);
    assert.match(loud.stderr, /evaluate: 100 %/);
    assert.match(loud.stdout, /^perplexity [\d.]+/);
  });

  it('compare: a model is itself; a rewritten one differs, layer by layer', async () => {
    const words = ['--tokens', ids, '--length', '64', '--windows', '2'];
    const same = await json<{ sqnrDb: number | string; klDivergence: number; top1Agreement: number }>(
      'compare',
      model,
      model,
      ...words,
    );
    assert.equal(same.sqnrDb, 'Infinity');
    assert.equal(same.top1Agreement, 1);
    await json(model, '--recipe', 'w8a8', '-o', folder.file('compared.onnx'));
    const other = await json<{ sqnrDb: number; klDivergence: number; layers: { name: string; sqnrDb: number }[] }>(
      ...['compare', model, folder.file('compared.onnx'), ...words],
    );
    assert.ok(other.sqnrDb > 15 && other.klDivergence > 0, JSON.stringify(other));
    assert.ok(other.layers.length > 0 && other.layers.every(({ sqnrDb }) => sqnrDb > 15));
  });

  it('a quantized cache: reported, measured and compared like the rest', async () => {
    const words = ['--tokens', ids, '--length', '64', '--windows', '2'];
    const output = folder.file('cached.onnx');
    const written = await json<{ caches: { decision: string; bits: number }[] }>(
      ...[model, '--recipe', 'w8a8', '--set', 'kv.bits=8', '-o', output],
    );
    assert.ok(written.caches.length > 0 && written.caches.every(({ decision, bits }) => decision && bits === 8));
    const [before, after] = [
      await json<{ perplexity: number }>('eval', model, ...words),
      await json<{ perplexity: number }>('eval', output, ...words),
    ];
    assert.ok(Math.abs(after.perplexity / before.perplexity - 1) < 0.05, `${before.perplexity} ${after.perplexity}`);
    const compared = await json<{ sqnrDb: number }>('compare', model, output, ...words);
    assert.ok(compared.sqnrDb > 15, JSON.stringify(compared));
  });

  it('--strict ends with 1 when a layer stays float that the recipe wanted', async () => {
    const allowed = await runCli([model, '--recipe', 'w4a16', '-o', folder.file('strict.onnx'), '--strict']);
    assert.equal(allowed.code, 0, allowed.stderr); // lm_head stays because the recipe says so

    const narrow = await writeTinyModel(folder.file('narrow.onnx'), true, { mlp: 16 }); // down_proj has too few channels
    const refused = await runCli([narrow, '--recipe', 'w4a16', '--strict']);
    assert.equal(refused.code, 1, refused.stderr);
    assert.match(refused.stderr, /^--strict: 2 layers stayed in float .*down_proj.*16/m);
  });
});
