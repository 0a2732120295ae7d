import { cpus } from 'node:os';
import { readFileSync } from 'node:fs';
import type { Check } from './check.js';

/**
 * The processor, and which kernels it can run.
 * @param features as the operator library sees them; when it does not load, /proc/cpuinfo is asked
 */
export function checkCpu(features: readonly string[] | undefined): Check {
  const all = cpus();
  const have = features ?? fromProc();
  const best =
    have.includes('avx512vnni') || have.includes('avx512_vnni')
      ? 'AVX-512 VNNI'
      : have.includes('avx2')
        ? 'AVX2'
        : 'portable';
  const found = `${all[0]?.model.trim() ?? process.arch}, ${all.length} threads; ${have.join(' ') || 'no vector features known'}; best kernels: ${best}`;
  return { name: 'CPU', status: 'ok', found };
}

const interesting = ['avx2', 'fma', 'f16c', 'avx512f', 'avx512bw', 'avx512_vnni', 'avx_vnni'];

function fromProc(): string[] {
  try {
    const flags = /^flags\s*:(.*)$/m.exec(readFileSync('/proc/cpuinfo', 'utf8'))?.[1]?.split(/\s+/) ?? [];
    return interesting.filter((flag) => flags.includes(flag));
  } catch {
    return []; // not Linux: the library's own answer is the only one
  }
}
