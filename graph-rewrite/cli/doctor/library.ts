/** Loads the operator library in a child process: one that does not fit the machine ends the child, not the doctor. */
import { execFile } from 'node:child_process';
import type { Check } from './check.js';

/** What `OrtLowbitDescribe()` says. */
export interface LibraryDescription {
  readonly version: string;
  readonly ops: readonly unknown[];
  readonly cpu: { readonly features: readonly string[] };
  readonly kernels: readonly { readonly op: string; readonly name: string; readonly available: boolean }[];
  readonly cuda: { readonly built: boolean; readonly archs: readonly unknown[] };
}

const host = new URL('../../../native/js/index.js', import.meta.url).href;
const probe = `const host = await import(${JSON.stringify(host)}); process.stdout.write(JSON.stringify(host.describeOps()));`;
const timeoutMs = 60_000;

export function probeLibrary(signal: AbortSignal): Promise<{ check: Check; description?: LibraryDescription }> {
  const name = 'Operator library';
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      ['--input-type=module', '--eval', probe],
      { encoding: 'utf8', timeout: timeoutMs, signal },
      (error, stdout, stderr) => {
        try {
          if (error) throw error;
          const description = JSON.parse(stdout) as LibraryDescription;
          const usable = description.kernels.filter((kernel) => kernel.available).length;
          const found = `${description.version}, ${description.ops.length} operators, ${usable} of ${description.kernels.length} kernels run here`;
          resolve({ check: { name, status: 'ok', found }, description });
        } catch (cause) {
          resolve({
            check: {
              name,
              status: 'missing',
              found: `does not load (${reason(cause, stderr)})`,
              fix: 'Build it: npm run build',
            },
          });
        }
      },
    );
  });
}

/** The line of the child's stderr that says why, or how the child ended. */
function reason(cause: unknown, stderr: string): string {
  const line = stderr.split('\n').find((each) => /Error|error:|cannot|not found/.test(each));
  if (line) return line.trim();
  const { signal, message } = cause as { signal?: string; message?: string };
  return signal ? `the process was ended by ${signal}` : ((message ?? 'no answer').split('\n')[0] ?? 'no answer');
}
