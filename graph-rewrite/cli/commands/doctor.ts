/** `rewrite doctor`: what this machine has, what is missing, and the fix. */
import pc from 'picocolors';
import type { Context } from '../context.js';
import type { Check } from '../doctor/check.js';
import { checkCpu } from '../doctor/cpu.js';
import { checkCuda } from '../doctor/cuda.js';
import { checkNode, checkOnnxRuntime } from '../doctor/runtime.js';
import { probeLibrary } from '../doctor/library.js';

export async function run(context: Context): Promise<number> {
  const library = await probeLibrary(context.signal);
  const checks: Check[] = [
    checkNode(),
    checkCpu(library.description?.cpu.features),
    ...checkOnnxRuntime(),
    library.check,
    ...checkCuda(library.description?.cuda),
  ];
  const ready = checks.every((check) => check.status !== 'missing');
  context.result(
    { ready, checks, operators: library.description?.ops ?? [], kernels: library.description?.kernels ?? [] },
    () =>
      [
        ...checks.flatMap(lines),
        '',
        ready
          ? 'Ready: rewritten models run here.'
          : 'Not ready: rewritten models do not run here until the lines marked ✗ are fixed.',
      ].join('\n'),
  );
  return ready ? 0 : 3;
}

function lines(check: Check): string[] {
  const mark = { ok: pc.green('✓'), absent: pc.yellow('–'), missing: pc.red('✗') }[check.status];
  const first = `${mark} ${check.name.padEnd(18)} ${check.found}`;
  return check.fix ? [first, `  ${''.padEnd(18)} → ${check.fix}`] : [first];
}
