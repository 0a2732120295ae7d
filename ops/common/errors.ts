/** Who has to act on an error: the caller's words, the caller's files or machine, or us. */
export type ErrorCode = 'usage' | 'input' | 'internal' | 'interrupted';

/** Process exit code for each kind of error. 1 is reserved for a `--strict` rewrite that kept a layer in float. */
export const exitCodes: Readonly<Record<ErrorCode, number>> = { usage: 2, input: 3, internal: 70, interrupted: 130 };

/**
 * An error a person can act on. Its message reads `where: what was found, expected what. What to do`.
 */
export class LowbitError extends Error {
  readonly code: ErrorCode;
  /** The file, node, option or stage the error is about. */
  readonly at: string;
  /** What to do about it; the last sentence of the message. */
  readonly hint: string;

  /**
   * @param code who has to act
   * @param at where it happened: a file, a node name, an option
   * @param found what was found and what was expected, without a final full stop
   * @param hint what to do, a full sentence; may be empty
   */
  constructor(code: ErrorCode, at: string, found: string, hint = '', options?: ErrorOptions) {
    super(`${at}: ${found}.${hint ? ` ${hint}` : ''}`, options);
    this.name = 'LowbitError';
    this.code = code;
    this.at = at;
    this.hint = hint;
  }
}

/** The caller used a command, option or API wrongly. */
export function usageError(at: string, found: string, hint = ''): LowbitError {
  return new LowbitError('usage', at, found, hint);
}

/** A file, a model, a feed or the machine is not what the work needs. */
export function inputError(at: string, found: string, hint = '', cause?: unknown): LowbitError {
  return new LowbitError('input', at, found, hint, cause === undefined ? undefined : { cause });
}

/** An invariant of this program does not hold. */
export function internalError(at: string, found: string): LowbitError {
  return new LowbitError(
    'internal',
    `internal: ${at}`,
    found,
    'This is a bug; report it with the output of `rewrite doctor`.',
  );
}
