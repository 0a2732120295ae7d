// Brings a clone to the point where everything runs: packages installed, TypeScript and native code built.
// Does only what is missing or stale, so calling it twice costs seconds. Used by npm test and npm run demo.
import { spawnSync } from 'node:child_process';
import { existsSync, lstatSync, readFileSync, readdirSync, rmSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('..', import.meta.url));

const installCommands = [
  ['apt-get', 'sudo apt-get install -y g++ cmake make'],
  ['dnf', 'sudo dnf install -y gcc-c++ cmake make'],
  ['apk', 'sudo apk add g++ cmake make'],
  ['pacman', 'sudo pacman -S --needed gcc cmake make'],
];

/** Prints one line of the contract's form and ends the process: nothing after a failed step can work. */
function fail(message) {
  console.error(message);
  process.exit(3);
}

function onPath(program) {
  return (process.env.PATH ?? '').split(':').some((folder) => folder && existsSync(join(folder, program)));
}

/** Runs a step with its output held back; shows the output only when the step fails. */
function step(title, command, args, env = {}) {
  const start = Date.now();
  const result = spawnSync(command, args, {
    cwd: root,
    encoding: 'utf8',
    maxBuffer: 1 << 28,
    env: { ...process.env, ...env },
  });
  if (result.status !== 0) {
    console.error(`${result.stdout ?? ''}${result.stderr ?? ''}`.split('\n').slice(-60).join('\n'));
    const why = result.error?.message ?? `exit code ${result.status ?? result.signal}`;
    fail(`${title}: \`${command} ${args.join(' ')}\` failed (${why}), expected success. Its output is above.`);
  }
  const seconds = (Date.now() - start) / 1000;
  if (seconds >= 1) console.error(`  ${title} (${seconds.toFixed(0)} s)`);
}

/** The packages of the lock file are what is installed. Optional ones may be absent: they are for other platforms. */
function packagesAreCurrent() {
  const installed = join(root, 'node_modules/.package-lock.json');
  if (!existsSync(installed)) return false;
  const have = JSON.parse(readFileSync(installed, 'utf8')).packages;
  const want = JSON.parse(readFileSync(join(root, 'package-lock.json'), 'utf8')).packages;
  return Object.entries(want).every(
    ([path, entry]) => path === '' || entry.optional || entry.peer || have[path]?.version === entry.version,
  );
}

function installPackages() {
  if (packagesAreCurrent()) return;
  if (existsSync(join(root, 'node_modules')) && lstatSync(join(root, 'node_modules')).isSymbolicLink()) {
    fail(
      'node_modules: a link whose packages differ from package-lock.json, expected a folder of its own. Remove the link.',
    );
  }
  // onnxruntime-node would download its CUDA provider after the install; the CPU path does not need it.
  step('npm ci', 'npm', ['ci', '--no-audit', '--no-fund'], { ONNXRUNTIME_NODE_INSTALL: 'skip' });
}

/** Compiled files whose source is gone would still be run by mocha. */
function removeOrphans(folder = join(root, 'dist')) {
  if (!existsSync(folder)) return;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) removeOrphans(path);
    else {
      const source = path
        .replace(`${root}dist/`, root)
        .replace(/(\.d)?\.(c?)(js|ts)(\.map)?$/, (_, _d, common) => `.${common}ts`);
      if (source !== path && /ts$/.test(source) && !existsSync(source)) rmSync(path);
    }
  }
}

function newest(folder, pattern) {
  let latest = 0;
  for (const entry of readdirSync(folder, { withFileTypes: true })) {
    const path = join(folder, entry.name);
    if (entry.isDirectory()) latest = Math.max(latest, newest(path, pattern));
    else if (pattern.test(entry.name)) latest = Math.max(latest, statSync(path).mtimeMs);
  }
  return latest;
}

function nativeIsCurrent() {
  const built = join(root, 'build/Release');
  if (!existsSync(built)) return false;
  const outputs = readdirSync(built).filter((name) => /\.(node|so|dylib)$/.test(name));
  if (!outputs.some((name) => name.endsWith('.node')) || !outputs.some((name) => !name.endsWith('.node'))) return false;
  const oldest = Math.min(...outputs.map((name) => statSync(join(built, name)).mtimeMs));
  const sources = /(CMakeLists\.txt|\.(cc|h|inl|cu|cuh|map|cmake))$/;
  return [join(root, 'ops'), join(root, 'native')].every((folder) => newest(folder, sources) <= oldest);
}

function buildNative() {
  if (nativeIsCurrent()) return;
  const missing = [
    ['a C++ compiler', ['g++', 'clang++', 'c++']],
    ['CMake', ['cmake']],
    ['make or ninja', ['make', 'ninja']],
  ].filter(([, programs]) => !programs.some(onPath));
  if (missing.length > 0) {
    const how = installCommands.find(([manager]) => onPath(manager))?.[1] ?? 'your package manager';
    fail(
      `native build: no ${missing.map(([what]) => what).join(', no ')} on PATH, expected all of g++ (C++20), cmake and make. Install with: ${how}`,
    );
  }
  step('build native code', 'npm', ['run', '--silent', 'build:native']);
}

/** Installs and builds whatever is missing or stale; ends the process with a message when that cannot be done. */
export function bootstrap() {
  const [major = 0, minor = 0] = process.versions.node.split('.').map(Number);
  if (major < 20 || (major === 20 && minor < 19)) {
    fail(`node: version ${process.versions.node} found, expected 20.19 or newer. Install it from https://nodejs.org.`);
  }
  installPackages();
  removeOrphans();
  step('build TypeScript', 'npm', ['run', '--silent', 'build:ts']);
  buildNative();
}

if (process.argv[1] === fileURLToPath(import.meta.url)) bootstrap();
