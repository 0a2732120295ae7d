// npm run test:gpu: the CUDA kernels' checks, then the host's, on this machine's GPU. npm run test:gpu:sanitize: the kernels' checks under
// compute-sanitizer. npm run bench:gpu: the kernels' timings; whole models and ONNX Runtime's own operators: scripts/gpu-models.sh.
// Needs what `npm run build:native -- --CDLOWBIT_CUDA=ON --target gpu_test` or scripts/gpu-build.sh made.
import { spawnSync } from 'node:child_process';
import { existsSync } from 'node:fs';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const [what, ...rest] = process.argv.slice(2);
const folder = process.env.LOWBIT_GPU_BUILD ?? `${root}/build/Release`;

/** Runs a program with its output shown; its exit code. */
function show(program, args) {
  return spawnSync(program, args, { cwd: root, stdio: 'inherit' }).status ?? 70;
}

const tests = `${folder}/gpu_test`;
const file = { test: tests, sanitize: tests, bench: `${folder}/libgpu_bench.so` }[what];
if (file === undefined) {
  console.error(`gpu: '${what}' given, expected test, sanitize or bench.`);
  process.exit(2);
}
if (!existsSync(file)) {
  console.error(`gpu: ${file} is not there, expected a build with CUDA. Run scripts/gpu-build.sh OUT ORT_HEADERS`);
  console.error('and set LOWBIT_GPU_BUILD=OUT, or build the CMake targets gpu_test and gpu_bench with LOWBIT_CUDA=ON.');
  process.exit(3);
}
if (what === 'bench') {
  const results = rest[0] ?? `${folder}/gpu-bench.json`;
  const products = show('python3', [`${root}/bench/gpu/run.py`, file, results, ...rest.slice(1)]);
  const attention = results.replace(/(\.json)?$/, '-attention.json');
  process.exit(show('python3', [`${root}/bench/gpu/attention.py`, file, attention, ...rest.slice(1)]) || products);
}
if (what === 'sanitize') {
  if (spawnSync('compute-sanitizer', ['--version']).status !== 0) {
    console.error("gpu: no compute-sanitizer, expected it on the PATH. It is in the CUDA toolkit's bin folder.");
    process.exit(3);
  }
  // Under racecheck a launch takes up to half a second: every kernel once, where cases differ in more than the kernel a few.
  const quick = [
    ['memcheck', '--every', '3'],
    ['synccheck', '--every', '3'],
    ['racecheck', '--gemm', '--each-kernel'],
    ['racecheck', '--lorc', '--every', '5'],
    ['racecheck', '--rows', '--every', '25'],
    ['racecheck', '--kv', '--every', '25'],
  ];
  let failed = 0;
  for (const [tool, ...cases] of quick) {
    const run = ['--tool', tool, '--error-exitcode', '1', file, '--quick', ...cases, ...rest];
    console.log(`compute-sanitizer ${run.join(' ')}`);
    failed = show('compute-sanitizer', run) || failed;
  }
  process.exit(failed);
}
const kernels = show(file, rest);
process.exit(show(process.execPath, [`${root}/dist/test/gpu/host.js`]) || kernels);
