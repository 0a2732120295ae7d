/** Loads the operator library in a child process: one that does not fit the machine ends the child, not the doctor. */
import { execFile, type ExecFileException } from 'node:child_process';
import type { NativeInfo } from '../../../native/js/index.js';
import type { Check } from './check.js';

const host = new URL('../../../native/js/index.js', import.meta.url).href;
/** Answers on stdout either way; whatever else the child prints is the system's. */
const probe = `let answer;
try { answer = (await import(${JSON.stringify(host)})).nativeInfo(); } catch (error) { answer = { error: error.message }; }
process.stdout.write(JSON.stringify(answer));`;
const timeoutMs = 60_000;

export function probeLibrary(signal: AbortSignal): Promise<{ check: Check; info?: NativeInfo }> {
  const name = 'Operator library';
  return new Promise((resolve) => {
    execFile(
      process.execPath,
      ['--input-type=module', '--eval', probe],
      { encoding: 'utf8', timeout: timeoutMs, signal },
      (error, stdout, stderr) => {
        const answer = error ? { error: ended(error, stderr) } : (JSON.parse(stdout) as NativeInfo | { error: string });
        if ('error' in answer) {
          const fix = 'Build it: npm run build';
          resolve({ check: { name, status: 'missing', found: `does not load: ${answer.error}`, fix } });
          return;
        }
        const { path, description } = answer.operatorLibrary;
        const usable = description.kernels.filter((kernel) => kernel.available).length;
        const found = `${description.version}, ${description.ops.length} operators, ${usable} of ${description.kernels.length} kernels run here (${path})`;
        resolve({ check: { name, status: 'ok', found }, info: answer });
      },
    );
  });
}

/** How a child that could not answer ended. */
function ended(error: ExecFileException, stderr: string): string {
  if (error.signal) return `the process that tried was ended by ${error.signal}`;
  return stderr.trim().split('\n')[0] ?? error.message;
}
