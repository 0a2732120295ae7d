/** Loads the operator library in a child process: one that does not fit the machine ends the child, not the doctor. */
import { execFile, type ExecFileException } from 'node:child_process';
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
/** Answers on stdout either way; whatever else the child prints is the system's. */
const probe = `let answer;
try { answer = (await import(${JSON.stringify(host)})).describeOps(); } catch (error) { answer = { error: error.message }; }
process.stdout.write(JSON.stringify(answer));`;
const timeoutMs = 60_000;

export function probeLibrary(signal: AbortSignal): Promise<{ check: Check; description?: LibraryDescription }> {
  const name = 'Operator library';
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      ['--input-type=module', '--eval', probe],
      { encoding: 'utf8', timeout: timeoutMs, signal },
      (error, stdout, stderr) => {
        const answer = error
          ? { error: ended(error, stderr) }
          : (JSON.parse(stdout) as LibraryDescription | { error: string });
        if ('error' in answer) {
          const fix = 'Build it: npm run build';
          resolve({ check: { name, status: 'missing', found: `does not load: ${answer.error}`, fix } });
          return;
        }
        const usable = answer.kernels.filter((kernel) => kernel.available).length;
        const found = `${answer.version}, ${answer.ops.length} operators, ${usable} of ${answer.kernels.length} kernels run here`;
        resolve({ check: { name, status: 'ok', found }, description: answer });
      },
    );
  });
}

/** How a child that could not answer ended. */
function ended(error: ExecFileException, stderr: string): string {
  if (error.signal) return `the process that tried was ended by ${error.signal}`;
  return stderr.trim().split('\n')[0] ?? error.message;
}
