/** From anything thrown to one line on stderr, a JSON object on stdout when asked for, and an exit code. */
import type { CommanderError } from 'commander';
import { type Command } from 'commander';
import { LowbitError, exitCodes, internalError, usageError } from '../../ops/common/errors.js';

/** Prints the failure and returns the process's exit code. */
export function reportFailure(thrown: unknown, json: boolean): number {
  const error = asLowbitError(thrown);
  process.stderr.write(`${error.message.trimEnd()}\n`);
  // Only a defect of this program is worth a stack: everything else is told by its message.
  if (error.code === 'internal' && thrown instanceof Error) process.stderr.write(`${thrown.stack ?? ''}\n`);
  const exitCode = exitCodes[error.code];
  if (json) {
    const { code, at, hint, message } = error;
    process.stdout.write(`${JSON.stringify({ error: { code, at, message, hint, exitCode } })}\n`);
  }
  return exitCode;
}

function asLowbitError(thrown: unknown): LowbitError {
  if (thrown instanceof LowbitError) return thrown;
  if (thrown instanceof Error && thrown.name === 'AbortError') {
    return new LowbitError(
      'interrupted',
      'rewrite',
      'interrupted, expected to be left to finish',
      'Nothing was written.',
    );
  }
  if (isSystemError(thrown)) return systemError(thrown);
  const message = thrown instanceof Error ? thrown.message : String(thrown);
  return internalError('command', message.replace(/[.\s]+$/, ''));
}

interface SystemError extends Error {
  readonly code: string;
  readonly path?: string;
}

function isSystemError(thrown: unknown): thrown is SystemError {
  return thrown instanceof Error && 'code' in thrown && typeof thrown.code === 'string' && 'syscall' in thrown;
}

/** What the operating system refuses is the caller's machine or files, not a defect. */
function systemError(error: SystemError): LowbitError {
  const known: Readonly<Record<string, readonly [string, string]>> = {
    ENOENT: ['no such file, expected it to exist', 'Check the path.'],
    EISDIR: ['a folder, expected a file', 'Check the path.'],
    ENOTDIR: ['part of the path is a file, expected a folder', 'Check the path.'],
    EACCES: ['no permission, expected access', 'Check the rights of the file and its folder.'],
    EPERM: ['no permission, expected access', 'Check the rights of the file and its folder.'],
    EROFS: ['a read-only file system, expected a writable one', 'Choose another place with -o.'],
    ENOSPC: ['the disk is full, expected room for the output', 'Free some space, or choose another disk with -o.'],
    EDQUOT: [
      'the disk quota is used up, expected room for the output',
      'Free some space, or choose another disk with -o.',
    ],
    ENAMETOOLONG: ['the name is too long, expected one that the file system takes', 'Choose a shorter one.'],
    ELOOP: ['a link that leads to itself, expected a file', 'Check the path.'],
    EFBIG: [
      'the file-size limit is reached, expected room for the output',
      'Raise the limit (ulimit -f), or choose another disk with -o.',
    ],
  };
  const [found, hint] = known[error.code] ?? [error.message, ''];
  return new LowbitError('input', error.path ?? 'file system', found, hint, { cause: error });
}

/** commander's complaints in the form of ours, with the legal words listed. */
export function fromCommander(error: CommanderError, command: Command): LowbitError {
  const where = command.parent ? `rewrite ${command.name()}` : 'rewrite';
  const quoted = /'([^']*)'/.exec(error.message)?.[1] ?? '';
  const options = command.options.filter((option) => !option.hidden).map((option) => option.long ?? option.flags);
  switch (error.code) {
    case 'commander.unknownOption':
      return usageError(
        quoted,
        `unknown option of ${where}, expected one of ${options.join(', ')}`,
        `See ${where} --help.`,
      );
    case 'commander.missingArgument':
      return usageError(where, `no ${quoted} given, expected ${command.usage()}`, `See ${where} --help.`);
    case 'commander.excessArguments':
      return usageError(
        where,
        `too many arguments (${command.args.join(' ')}), expected ${command.usage()}`,
        `See ${where} --help.`,
      );
    case 'commander.optionMissingArgument':
      return usageError(quoted, 'no value given, expected one', `See ${where} --help.`);
    default:
      return usageError(where, error.message.replace(/^error: /, '').replace(/\.$/, ''), `See ${where} --help.`);
  }
}
