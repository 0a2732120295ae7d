/** What a command talks through: results on stdout, everything else on stderr, and the wish to stop. */
import { LowbitError } from '../../ops/common/errors.js';
import { barView, lineView, silentView, type Progress } from './ui/progress.js';

export interface Context {
  readonly json: boolean;
  readonly quiet: boolean;
  /** Aborted by Ctrl-C with a LowbitError of code 'interrupted' as its reason. */
  readonly signal: AbortSignal;
  /** The command's result: the object with --json, otherwise the text. Called once. */
  result(value: object, text: () => string): void;
  /** Raw text on stdout, for streams; nothing with --json. */
  write(text: string): void;
  /** Whether somebody reads stdout; a long stream may end when not. */
  readonly hasReader: boolean;
  /** A line for the person watching; nothing with --quiet. */
  note(line: string): void;
  progress(progress: Progress): void;
  /** Ends the bar and stops listening for Ctrl-C. */
  close(): void;
}

/** Ctrl-C, the polite kill, and a terminal that was closed. */
const stopSignals = ['SIGINT', 'SIGTERM', 'SIGHUP'] as const;

export function createContext(options: { json?: boolean; quiet?: boolean }): Context {
  const json = options.json ?? false;
  const quiet = options.quiet ?? false;
  const view = quiet
    ? silentView
    : process.stderr.isTTY
      ? barView(process.stderr)
      : lineView((line) => process.stderr.write(`${line}\n`));

  const controller = new AbortController();
  const onInterrupt = (): void => {
    // The second Ctrl-C does not wait for the step in hand.
    if (controller.signal.aborted) {
      view.stop();
      process.exit(130);
    }
    controller.abort(
      new LowbitError(
        'interrupted',
        'rewrite',
        'interrupted, expected to be left to finish',
        'No file was left behind.',
      ),
    );
  };
  for (const signal of stopSignals) process.on(signal, onInterrupt);

  return {
    json,
    quiet,
    signal: controller.signal,
    result(value, text) {
      view.stop();
      process.stdout.write(json ? `${JSON.stringify(value, jsonValue)}\n` : `${text()}\n`);
    },
    write(text) {
      if (!json) process.stdout.write(text);
    },
    get hasReader() {
      return process.stdout.writable;
    },
    note(line) {
      if (quiet) return;
      view.stop();
      process.stderr.write(`${line}\n`);
    },
    progress: (progress) => view.update(progress),
    close() {
      view.stop();
      for (const signal of stopSignals) process.off(signal, onInterrupt);
    },
  };
}

/** JSON has no infinity: an exact copy compares with 'Infinity' dB, which is said in words. */
function jsonValue(_key: string, value: unknown): unknown {
  return typeof value === 'number' && !Number.isFinite(value) ? String(value) : value;
}
