// npm run test:gpu: the CUDA kernels' checks, then the host's, on this machine's GPU. npm run bench:gpu: the kernels' timings; whole
// models and ONNX Runtime's own operators: scripts/gpu-models.sh.
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

const file = { test: `${folder}/gpu_test`, bench: `${folder}/libgpu_bench.so` }[what];
if (file === undefined) {
  console.error(`gpu: '${what}' given, expected test or bench.`);
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
const kernels = show(file, rest);
process.exit(show(process.execPath, [`${root}/dist/test/gpu/host.js`]) || kernels);
