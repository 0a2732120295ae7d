// Builds the CPU row and cache kernels with AddressSanitizer and UBSan and runs them over exactly sized buffers: npm run test:sanitize.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const compiler = process.env.CXX ?? 'c++';
const flags = ['-std=c++20', '-O1', '-g', '-ffp-contract=off', '-fsanitize=address,undefined', '-fno-sanitize-recover'];
const avx2 = ['-mavx2', '-mf16c', '-mfma'];
const avx512 = [...avx2, '-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl'];

/** Every source file with the instruction set it is built for. */
const program = (main, kernels) => [
  [main],
  ['native/core/cpu_features.cc'],
  [`${kernels}/scalar.cc`],
  [`${kernels}/avx2.cc`, ...avx2],
  [`${kernels}/avx512.cc`, ...avx512],
];
const programs = [
  program('test/native/sanitize_rows.cc', 'ops/rows/cpu'),
  program('test/native/sanitize_kv.cc', 'ops/quant-kv-attention/cpu'),
];

const folder = mkdtempSync(join(tmpdir(), 'ort-lowbit-sanitize-'));
let status = 0;
function run(command, args) {
  if (status === 0) status = spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status ?? 70;
}
try {
  for (const [number, sources] of programs.entries()) {
    const objects = sources.map(([source, ...isa], i) => {
      const object = join(folder, `${number}-${i}.o`);
      run(compiler, [...flags, ...(process.arch === 'x64' ? isa : []), '-I.', '-c', source, '-o', object]);
      return object;
    });
    const file = join(folder, `sanitize-${number}`);
    run(compiler, [...flags, ...objects, '-o', file]);
    run(file, []);
  }
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exit(status);
