// The architecture as a check: a folder may import only from the folders listed for it.
import { readFileSync, readdirSync } from 'node:fs';
import { dirname, join, relative, resolve } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));

/** Folder -> what it may import. First matching prefix wins; `types:` allows `import type` only. */
const rules = [
  ['ops', ['ops']],
  // Decoding is of use without native code, so it may not load any.
  ['native/js/lm', ['native/js/lm', 'ops']],
  ['native/js', ['native/js', 'ops']],
  ['graph-rewrite/cli', ['graph-rewrite', 'ops', 'native/js', 'models']],
  ['graph-rewrite/calibrate', ['graph-rewrite', 'ops', 'native/js/lm', 'types:native/js']],
  ['graph-rewrite/lm', ['graph-rewrite', 'ops', 'native/js/lm', 'types:native/js']],
  ['graph-rewrite/passes', ['graph-rewrite', 'ops', 'native/js/lm']],
  ['graph-rewrite/round', ['graph-rewrite', 'ops', 'types:native/js']],
  ['graph-rewrite/sensitivity', ['graph-rewrite', 'ops', 'native/js/lm', 'types:native/js']],
  ['graph-rewrite/verify', ['graph-rewrite', 'ops', 'native/js/lm', 'types:native/js']],
  ['graph-rewrite', ['graph-rewrite', 'ops', 'types:native/js/lm']],
];

function* sources(folder) {
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) yield* sources(path);
    else if (/\.c?ts$/.test(entry.name)) yield path;
  }
}

const under = (path, folder) => path === folder || path.startsWith(`${folder}/`);
let bad = 0;
for (const folder of ['ops', 'graph-rewrite', 'native/js']) {
  for (const file of sources(join(root, folder))) {
    const where = relative(root, file);
    const allowed = rules.find(([prefix]) => under(where, prefix))[1];
    const text = readFileSync(file, 'utf8');
    for (const match of text.matchAll(/(import|export)\s+(type\s+)?[^'";]*?from\s+'(\.[^']+)'/g)) {
      const target = relative(root, resolve(dirname(file), match[3]));
      const ok = allowed.some((rule) =>
        rule.startsWith('types:') ? match[2] && under(target, rule.slice(6)) : under(target, rule),
      );
      if (!ok) {
        bad++;
        console.error(
          `${where}: imports ${target}, expected only ${allowed.join(', ')}. Move the code or pass the value in.`,
        );
      }
    }
  }
}
process.exit(bad ? 1 : 0);
