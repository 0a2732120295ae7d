/** Runs a program in a child process, from the package's root, so that it can import the package by name. */
import { spawn } from 'node:child_process';
import { fileURLToPath } from 'node:url';

/** The folder of package.json. */
export const packageRoot = fileURLToPath(new URL('../../..', import.meta.url));

export interface ChildResult {
  readonly code: number | null;
  readonly signal: string | null;
  readonly stdout: string;
  readonly stderr: string;
}

/** Node with these arguments. Never rejects: how the child ended is the result. */
export function runNode(args: readonly string[], env: Record<string, string> = {}): Promise<ChildResult> {
  return new Promise((resolve) => {
    const child = spawn(process.execPath, args, { cwd: packageRoot, env: { ...process.env, ...env } });
    let stdout = '';
    let stderr = '';
    child.stdout.setEncoding('utf8').on('data', (text: string) => (stdout += text));
    child.stderr.setEncoding('utf8').on('data', (text: string) => (stderr += text));
    child.on('close', (code, signal) => resolve({ code, signal, stdout, stderr }));
  });
}

/** An ES module given as text. Top-level await is fine. */
export function runModule(source: string, nodeArgs: readonly string[] = []): Promise<ChildResult> {
  return runNode([...nodeArgs, '--input-type=module', '--eval', source]);
}

/** A CommonJS script given as text. */
export function runScript(source: string, nodeArgs: readonly string[] = []): Promise<ChildResult> {
  return runNode([...nodeArgs, '--input-type=commonjs', '--eval', source]);
}
