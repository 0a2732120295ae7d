/** `rewrite doctor`: what this machine has, what is missing, and the fix. */
import pc from 'picocolors';
import { environmentVariables } from '../../../native/js/env.js';
import type { Context } from '../context.js';
import type { Check } from '../doctor/check.js';
import { checkCpu } from '../doctor/cpu.js';
import { checkCuda } from '../doctor/cuda.js';
import { checkNode, checkOnnxRuntime } from '../doctor/runtime.js';
import { probeLibrary } from '../doctor/library.js';

export async function run(context: Context): Promise<number> {
  const library = await probeLibrary(context.signal);
  const description = library.info?.operatorLibrary.description;
  const checks: Check[] = [
    checkNode(),
    checkCpu(description?.cpu.features),
    ...checkOnnxRuntime(),
    library.check,
    ...checkCuda(library.info),
  ];
  const environment = Object.fromEntries(environmentVariables.map(({ name }) => [name, process.env[name] ?? null]));
  const ready = checks.every((check) => check.status !== 'missing');
  context.result(
    { ready, checks, operators: description?.ops ?? [], kernels: description?.kernels ?? [], environment },
    () =>
      [
        ...checks.flatMap(lines),
        ...environmentVariables.map(
          ({ name, about }) => `  ${name} ${process.env[name] ? `= ${process.env[name]}` : 'not set'} (${about})`,
        ),
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
