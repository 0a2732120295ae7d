import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

/** Root of the repository; tests run from dist/test/<folder>. */
export const repositoryRoot = fileURLToPath(new URL('../../../', import.meta.url));
export const zooFolder = join(repositoryRoot, 'models', 'zoo');

/** A fresh folder for every test of the suite that calls this; `path('a')` names a file in it. */
export function temporaryFolder(): { path: (...parts: string[]) => string } {
  let folder = '';
  beforeEach(() => {
    folder = mkdtempSync(join(tmpdir(), 'ort-lowbit-'));
  });
  afterEach(() => rmSync(folder, { recursive: true, force: true }));
  return { path: (...parts) => join(folder, ...parts) };
}
