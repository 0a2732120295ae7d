/** Runs bin/rewrite.js as a user would: a process of its own, its streams and its exit code. */
import { spawn } from 'node:child_process';
import { mkdtempSync, readdirSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

export const root = fileURLToPath(new URL('../../..', import.meta.url));

export interface CliResult {
  readonly code: number | null;
  readonly stdout: string;
  readonly stderr: string;
  /** The object on stdout of a run with --json. */
  readonly json: () => Record<string, unknown>;
}

export interface CliOptions {
  /** Shell words put in front, such as `prlimit --fsize=…`. */
  readonly wrapper?: readonly string[];
  /** Sends SIGINT when this text has appeared on one of its streams. */
  readonly interruptAt?: RegExp;
  readonly env?: Readonly<Record<string, string>>;
}

export function runCli(args: readonly string[], options: CliOptions = {}): Promise<CliResult> {
  const command = [...(options.wrapper ?? []), process.execPath, join(root, 'bin/rewrite.js'), ...args];
  return new Promise((resolve, reject) => {
    const child = spawn(command[0]!, command.slice(1), { env: { ...process.env, ...options.env } });
    let stdout = '';
    let stderr = '';
    let interrupted = false;
    const interruptIfDue = (text: string) => {
      if (interrupted || !options.interruptAt?.test(text)) return;
      interrupted = true;
      child.kill('SIGINT');
    };
    child.stdout.setEncoding('utf8').on('data', (chunk: string) => interruptIfDue((stdout += chunk)));
    child.stderr.setEncoding('utf8').on('data', (chunk: string) => interruptIfDue((stderr += chunk)));
    child.on('error', reject);
    child.on('close', (code) => {
      resolve({ code, stdout, stderr, json: () => JSON.parse(stdout) as Record<string, unknown> });
    });
  });
}

export interface Folder {
  readonly path: string;
  readonly file: (name: string) => string;
  readonly entries: () => string[];
  readonly remove: () => void;
}

/** A folder for one test; `entries()` lists what is in it, to show that nothing was left behind. */
export function scratch(): Folder {
  const path = mkdtempSync(join(tmpdir(), 'ort-lowbit-test-'));
  return {
    path,
    file: (name) => join(path, name),
    entries: () => readdirSync(path).sort(),
    remove: () => rmSync(path, { recursive: true, force: true }),
  };
}
