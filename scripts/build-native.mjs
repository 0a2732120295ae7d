// Builds the operator library and the Node addon with cmake-js into build/Release.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
if (!existsSync(`${root}/node_modules/.bin/cmake-js`)) {
  console.error('build-native: cmake-js is not installed, expected it in node_modules. Run npm ci.');
  process.exit(3);
}
const options = process.argv.slice(2); // e.g. --CDLOWBIT_CUDA=ON
const result = spawnSync(`${root}/node_modules/.bin/cmake-js`, ['compile', '--config', 'Release', ...options], {
  cwd: root,
  stdio: 'inherit',
  env: { ...process.env, CMAKE_BUILD_PARALLEL_LEVEL: process.env.CMAKE_BUILD_PARALLEL_LEVEL ?? '2' },
});
process.exit(result.status ?? 70);
