// Runs clang-format over every C++ and CUDA file that git tracks or would track.
import { execFileSync, spawnSync } from 'node:child_process';

const listed = execFileSync(
  'git',
  [
    'ls-files',
    '-z',
    '--cached',
    '--others',
    '--exclude-standard',
    '--',
    '*.cc',
    '*.h',
    '*.cu',
    '*.cuh',
    '*.inl',
    '*.c',
  ],
  { encoding: 'utf8' },
);
const files = listed.split('\0').filter(Boolean);
if (files.length > 0) {
  const result = spawnSync('node_modules/.bin/clang-format', [...process.argv.slice(2), ...files], {
    stdio: 'inherit',
  });
  process.exit(result.status ?? 70);
}
