// npm run test:versions [-- VERSION ...]: the host and the operators against other releases of onnxruntime-node.
// Fetches each with npm pack (nothing of it is installed or run but its shared library) and runs the tests on that library.
import { spawnSync } from 'node:child_process';
import { existsSync, mkdirSync, mkdtempSync, readdirSync, renameSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const versions = process.argv.length > 2 ? process.argv.slice(2) : ['1.24.3', '1.29.0', '1.30.0'];
// What runs on a session of ours; register.test.js is about the installed onnxruntime-node and its own library.
const specs = ['dist/test/native/**/*.test.js', 'dist/test/ops/**/*.test.js'];
const ignored = ['dist/test/native/register.test.js', 'dist/test/native/lifetime.test.js'];

/** Runs a program; ends this one with exit code 3 when it fails. */
function run(command, args, options) {
  const result = spawnSync(command, args, { encoding: 'utf8', ...options });
  if (result.status === 0) return result.stdout;
  console.error(`${command} ${args.join(' ')}: failed\n${result.stderr ?? result.error}`);
  process.exit(3);
}

/** Path of the shared library of one release, fetched once into .cache. */
function fetchRuntime(version) {
  const folder = join(root, '.cache', `onnxruntime-node-${version}`);
  const library = join(folder, `package/bin/napi-v6/${process.platform}/${process.arch}/libonnxruntime.so.1`);
  if (existsSync(library)) return library;
  mkdirSync(join(root, '.cache'), { recursive: true });
  const temporary = mkdtempSync(join(root, '.cache', 'fetch-'));
  try {
    run(
      'npm',
      ['pack', '--silent', '--ignore-scripts', '--pack-destination', temporary, `onnxruntime-node@${version}`],
      {
        cwd: temporary,
      },
    );
    const archive = readdirSync(temporary).find((name) => name.endsWith('.tgz'));
    const members = `package/bin/napi-v6/${process.platform}/${process.arch}`;
    run('tar', ['-xzf', archive, 'package/package.json', members], { cwd: temporary });
    rmSync(join(temporary, archive));
    rmSync(folder, { recursive: true, force: true });
    renameSync(temporary, folder);
  } finally {
    rmSync(temporary, { recursive: true, force: true });
  }
  return library;
}

let failed = 0;
for (const version of versions) {
  const library = fetchRuntime(version);
  console.log(`onnxruntime ${version} (${library})`);
  const args = ['--no-install', 'mocha', '--no-config', '--timeout', '120000', '--reporter', 'dot'];
  const result = spawnSync('npx', [...args, ...ignored.flatMap((file) => ['--ignore', file]), ...specs], {
    cwd: root,
    stdio: 'inherit',
    env: { ...process.env, ORT_LOWBIT_RUNTIME: library },
  });
  if (result.status !== 0) failed++;
}
console.log(failed === 0 ? `all of ${versions.join(', ')} passed` : `${failed} of ${versions.length} versions failed`);
process.exitCode = failed === 0 ? 0 : 1;
