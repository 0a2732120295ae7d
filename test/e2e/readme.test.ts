import assert from 'node:assert/strict';
import { execFileSync } from 'node:child_process';
import { copyFileSync, existsSync, mkdtempSync, mkdirSync, readFileSync, readdirSync, rmSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { root } from '../cli/run-cli.js';
import { ModelFolder, rewriteModel, tokenizer } from './bookworm.js';

const read = (file: string): string => readFileSync(join(root, file), 'utf8');
const documents = [
  'README.md',
  'models/README.md',
  ...readdirSync(join(root, 'docs')).map((file) => `docs/${file}`),
].filter((file) => file.endsWith('.md'));

describe('e2e: what the README says is so', function () {
  this.timeout(120_000);

  it('its ten lines run a rewritten model', async () => {
    const program = /```js\n([\s\S]*?)```/.exec(read('README.md'))?.[1] ?? '';
    const lines = program.split('\n').filter((line) => line.trim() !== '');
    assert.ok(lines.length > 0 && lines.length <= 10, `${lines.length} lines`);
    const models = new ModelFolder();
    // Inside the package, so that its own name resolves as it does for a program that installed it.
    mkdirSync(join(root, '.cache'), { recursive: true });
    const folder = mkdtempSync(join(root, '.cache/readme-'));
    try {
      await rewriteModel(await models.float('built', 'plain'), join(folder, 'model_w4a4.onnx'), {
        recipe: 'w4a16',
        set: [],
      });
      copyFileSync(tokenizer, join(folder, 'tokenizer.json'));
      const words = ['--input-type=module', '--eval', program];
      const text = execFileSync(process.execPath, words, { cwd: folder, encoding: 'utf8' });
      assert.match(text, /^It was a dark night, and.{40,}/s);
    } finally {
      rmSync(folder, { recursive: true });
      models.remove();
    }
  });

  for (const file of documents) {
    it(`${file}: links lead somewhere, scripts exist`, () => {
      const text = read(file);
      for (const [, link] of text.matchAll(/\]\(([^)#]+)[^)]*\)/g)) {
        if (/^https?:/.test(link!)) continue;
        const target = join(root, dirname(file), link!);
        assert.ok(existsSync(target), `${link} (${relative(root, target)})`);
      }
      const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };
      for (const [, script] of text.matchAll(/npm run ([a-z:-]+)/g)) assert.ok(script! in scripts, `npm run ${script}`);
    });
  }
});
