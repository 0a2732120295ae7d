import assert from 'node:assert/strict';
import { execFileSync, spawnSync } from 'node:child_process';
import { copyFileSync, mkdtempSync, mkdirSync, readFileSync, rmSync, symlinkSync } from 'node:fs';
import { join } from 'node:path';
import { Generator } from '../../native/js/index.js';
import { root } from '../cli/run-cli.js';
import { ModelFolder, rewriteModel, tokenizer } from './bookworm.js';

const read = (file: string): string => readFileSync(join(root, file), 'utf8');

describe('e2e: what the README says is so', function () {
  this.timeout(120_000);

  const models = new ModelFolder();
  /** Inside the package, so that its own name resolves as it does for a program that installed it. */
  let folder = '';
  before(async () => {
    mkdirSync(join(root, '.cache'), { recursive: true });
    folder = mkdtempSync(join(root, '.cache/readme-'));
    await rewriteModel(await models.float('built', 'plain'), join(folder, 'model_w4a4.onnx'), {
      recipe: 'w4a16',
      set: [],
    });
    copyFileSync(tokenizer, join(folder, 'tokenizer.json'));
    symlinkSync(join(root, 'build'), join(folder, 'build'));
  });
  after(() => {
    rmSync(folder, { recursive: true });
    models.remove();
  });

  const program = (language: string, file: string): string =>
    new RegExp(`\`\`\`${language}\\n([\\s\\S]*?)\`\`\``).exec(read(file))?.[1] ?? '';
  const run = (command: string, ...words: string[]): string =>
    execFileSync(command, words, { cwd: folder, encoding: 'utf8' });

  it('its ten lines run a rewritten model', () => {
    const js = program('js', 'README.md');
    const lines = js.split('\n').filter((line) => line.trim() !== '');
    assert.ok(lines.length > 0 && lines.length <= 10, `${lines.length} lines`);
    assert.match(run(process.execPath, '--input-type=module', '--eval', js), /^It was a dark night, and.{40,}/s);
  });

  it('docs/host.md: its Python lines write what the Generator does', async function () {
    if (spawnSync('python3', ['-c', 'import numpy, onnxruntime']).status !== 0) return this.skip();
    const python = run('python3', '-c', program('python', 'docs/host.md'));
    const generator = await Generator.create(join(folder, 'model_w4a4.onnx'));
    const { texts } = await generator.generate({ prompts: [[1, 15, 9]], maxNewTokens: 20 });
    await generator.release();
    assert.deepEqual(JSON.parse(python), [1, 15, 9, ...texts[0]!.ids]);
    return undefined;
  });
});
