import assert from 'node:assert/strict';
import { existsSync, readdirSync, readFileSync } from 'node:fs';
import { dirname, join, relative } from 'node:path';
import { root } from '../cli/run-cli.js';

const skipped = new Set(['node_modules', 'dist', 'build', '.git', '.cache']);

/** Every Markdown file of the repository, relative to its root. */
function documents(folder = root): string[] {
  return readdirSync(folder, { withFileTypes: true }).flatMap((entry) => {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) return skipped.has(entry.name) ? [] : documents(path);
    return entry.isFile() && entry.name.endsWith('.md') ? [relative(root, path)] : [];
  });
}

const read = (file: string): string => readFileSync(join(root, file), 'utf8');
/** Text without blocks and spans of code, in which brackets are not links. */
const prose = (text: string): string => text.replace(/^```[^]*?^```/gm, '').replace(/`[^`\n]*`/g, '');

/** Paths from the repository's root in spans of code, or as words of a command; not those with a wildcard or a placeholder. */
const named =
  /(?<=[`\s])((?:bench|bin|dist|docs|graph-rewrite|models|native|ops|scripts|test)\/[\w./-]+\.\w+)(?=[`\s])/g;

/** The anchors that GitHub gives a file's headings: lower case, without punctuation, blanks as hyphens, `-1` for a second one. */
function anchors(text: string): Set<string> {
  const found = new Set<string>();
  for (const [, heading] of text.replace(/^```[^]*?^```/gm, '').matchAll(/^#{1,6} (.*)$/gm)) {
    const name = heading!
      .trim()
      .toLowerCase()
      .replace(/[^\p{L}\p{N}\p{Pc}\- ]/gu, '')
      .replaceAll(' ', '-');
    let unique = name;
    for (let i = 1; found.has(unique); i++) unique = `${name}-${i}`;
    found.add(unique);
  }
  return found;
}

describe('documents', () => {
  const { scripts } = JSON.parse(read('package.json')) as { scripts: Record<string, string> };

  for (const file of documents()) {
    it(`${file}: what it links to and names is there`, () => {
      const text = read(file);
      for (const [, link] of prose(text).matchAll(/\]\(([^)\s]+)\)/g)) {
        if (/^[a-z]+:/.test(link!)) continue;
        const [path = '', anchor] = link!.split('#');
        const target = path === '' ? file : join(dirname(file), path);
        assert.ok(existsSync(join(root, target)), `${link}: ${target} is not there`);
        if (anchor !== undefined)
          assert.ok(anchors(read(target)).has(anchor), `${link}: ${target} has no such heading`);
      }
      for (const [, path] of text.matchAll(named)) {
        // What is compiled is named by its place in dist.
        assert.ok(existsSync(join(root, path!.replace(/^dist\/(.*)\.js$/, '$1.ts'))), `${path} is not there`);
      }
      for (const [, script] of text.matchAll(/npm run ([a-z:-]+)/g)) assert.ok(script! in scripts, `npm run ${script}`);
    });
  }

  it('the check finds what is wrong', () => {
    assert.deepEqual([...anchors('# A, b: `c_d`\n## A b\n## A b\n')], ['a-b-c_d', 'a-b', 'a-b-1']);
    assert.deepEqual(
      [...'`ops/index.ts` x/ops/a.ts ops/<op>/a.cc'.matchAll(named)].map(([path]) => path),
      ['ops/index.ts'],
    );
    assert.equal(prose('`[a](b)` [c](d)\n```\n[e](f)\n```\n').trim(), '[c](d)');
  });
});
