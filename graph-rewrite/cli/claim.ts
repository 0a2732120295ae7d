/** One rewrite at a time to one output: two would mix their files, and take each other's rounded layers away. */
import { readdirSync, readlinkSync, rmSync, symlinkSync } from 'node:fs';
import { hostname } from 'node:os';
import { basename, dirname, join, resolve } from 'node:path';
import { usageError } from '../../ops/common/errors.js';
import { temporaryName } from '../onnx/write.js';

/** Says who writes an output, and is there as long as the rewrite runs: a link to `<process>@<machine>`, since a link appears with what it says. */
export const claimLink = (output: string): string => join(dirname(resolve(output)), `.${basename(output)}.lock`);

/**
 * Takes an output for this process. What a process left that is gone is taken over, and its unfinished files are removed.
 * @returns gives it back, without unfinished files; this also happens when the process exits
 * @throws usage error that names the process that has it
 */
export function claimOutput(output: string): () => void {
  const link = claimLink(output);
  while (!made(link)) {
    const [pid = '', host = ''] = holderOf(link)?.split('@') ?? [];
    if (isRunning(Number(pid), host)) {
      throw usageError(
        output,
        `is being written by another rewrite (process ${pid} on ${host}), expected one at a time`,
        `Wait for it, or choose another output with -o. If there is no such process, remove ${link}.`,
      );
    }
    rmSync(link, { force: true });
    for (const file of temporariesOf(output, pid)) rmSync(file, { force: true });
  }
  const release = (): void => {
    process.off('exit', release);
    // After a second Ctrl-C nothing else tidies up.
    for (const file of temporariesOf(output, String(process.pid))) rmSync(file, { force: true });
    rmSync(link, { force: true });
  };
  process.on('exit', release);
  return release;
}

/** Unfinished files of an output. */
function temporariesOf(output: string, pid: string): string[] {
  const folder = dirname(resolve(output));
  const starts = [basename(output), `${basename(output)}_data`].map((name) => temporaryName(name, pid));
  return readdirSync(folder)
    .filter((name) => starts.some((start) => name.startsWith(start)))
    .map((name) => join(folder, name));
}

/** False if the link is there. Where none can be made there is no claim: either the file system has no links, or writing will say what is wrong. */
function made(link: string): boolean {
  try {
    symlinkSync(`${process.pid}@${hostname()}`, link);
  } catch (error) {
    return (error as NodeJS.ErrnoException).code !== 'EEXIST';
  }
  return true;
}

function holderOf(link: string): string | undefined {
  try {
    return readlinkSync(link);
  } catch (error) {
    if ((error as NodeJS.ErrnoException).code === 'ENOENT') return undefined;
    throw error;
  }
}

/**
 * Processes of other machines (a shared disk) cannot be asked for, so they count as running. One with the number of this process is not: containers
 * that start again give out the same numbers.
 */
function isRunning(pid: number, host: string): boolean {
  if (host !== hostname()) return host !== '';
  if (pid === process.pid) return false;
  try {
    process.kill(pid, 0);
    return true;
  } catch (error) {
    return (error as NodeJS.ErrnoException).code === 'EPERM';
  }
}
