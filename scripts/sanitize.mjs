// Builds the CPU row kernels with AddressSanitizer and UBSan and runs them over exactly sized buffers: npm run test:sanitize.
import { spawnSync } from 'node:child_process';
import { mkdtempSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

const root = fileURLToPath(new URL('..', import.meta.url));
const compiler = process.env.CXX ?? 'c++';
const flags = ['-std=c++20', '-O1', '-g', '-ffp-contract=off', '-fsanitize=address,undefined', '-fno-sanitize-recover'];
/** Source files and the instruction sets they are built for. */
const sources = [
  ['test/native/sanitize_rows.cc'],
  ['native/core/cpu_features.cc'],
  ['ops/rows/cpu/scalar.cc'],
  ['ops/rows/cpu/avx2.cc', '-mavx2', '-mf16c', '-mfma'],
  ['ops/rows/cpu/avx512.cc', '-mavx512f', '-mavx512bw', '-mavx512dq', '-mavx512vl', '-mfma'],
];

const folder = mkdtempSync(join(tmpdir(), 'ort-lowbit-sanitize-'));
let status = 0;
function run(command, args) {
  if (status === 0) status = spawnSync(command, args, { cwd: root, stdio: 'inherit' }).status ?? 70;
}
try {
  const objects = sources.map(([source, ...isa], i) => {
    const object = join(folder, `${i}.o`);
    run(compiler, [...flags, ...(process.arch === 'x64' ? isa : []), '-I.', '-c', source, '-o', object]);
    return object;
  });
  const program = join(folder, 'sanitize_rows');
  run(compiler, [...flags, ...objects, '-o', program]);
  run(program, []);
} finally {
  rmSync(folder, { recursive: true, force: true });
}
process.exit(status);
