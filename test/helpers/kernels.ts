/** Runs the same checks on every kernel architecture that an operator has. */
import { describeOps, forceKernel } from '../../native/js/index.js';

/** Architecture suffixes of an operator's kernels, and whether this machine can run them. */
export function architectures(op: string): { arch: string; available: boolean }[] {
  const found = new Map<string, boolean>();
  for (const kernel of describeOps().kernels) {
    if (kernel.op === op) found.set(kernel.name.replace(/^.*__/, ''), kernel.available);
  }
  return [...found].map(([arch, available]) => ({ arch, available }));
}

/** One mocha test for each architecture of `op`, with it forced; those this machine cannot run are skipped visibly. */
export function eachArchitecture(op: string, title: string, body: (arch: string) => Promise<void>): void {
  for (const { arch, available } of architectures(op)) {
    const test = available ? it : it.skip;
    test(`${title} [${arch}]`, async () => {
      forceKernel(op, arch);
      try {
        await body(arch);
      } finally {
        forceKernel(op, null);
      }
    });
  }
}
