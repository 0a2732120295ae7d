/** One line of the doctor's report. */
export interface Check {
  readonly name: string;
  /** ok; absent: an optional part is not there; missing: nothing runs without it. */
  readonly status: 'ok' | 'absent' | 'missing';
  readonly found: string;
  /** The command or step that repairs it. */
  readonly fix?: string;
}
