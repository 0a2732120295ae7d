/** Progress on stderr: a live bar on a terminal, one line per 10 % anywhere else. */
import { Presets, SingleBar } from 'cli-progress';

/** One step of work; `done` and `total` count whatever the stage counts (windows, layers, bytes). */
export interface Progress {
  readonly stage: string;
  readonly done: number;
  readonly total: number;
  readonly detail?: string;
}

export interface ProgressView {
  update(progress: Progress): void;
  /** Clears the bar so that other text may follow. */
  stop(): void;
}

/** A bar with an estimate of the time left, replaced when the stage changes. */
export function barView(stream: NodeJS.WriteStream): ProgressView {
  let bar: SingleBar | undefined;
  let stage = '';
  const stop = (): void => {
    bar?.stop();
    bar = undefined;
    stage = '';
  };
  return {
    update(progress) {
      if (progress.stage !== stage) {
        stop();
        stage = progress.stage;
        bar = new SingleBar(
          {
            format: '{stage} {bar} {percentage} % · {eta_formatted} left',
            hideCursor: true,
            clearOnComplete: true,
            stream,
          },
          Presets.shades_classic,
        );
        bar.start(progress.total, 0, { stage });
      }
      bar?.setTotal(progress.total);
      bar?.update(progress.done, { stage });
      if (progress.done >= progress.total) stop();
    },
    stop,
  };
}

/** One line at each new tenth of a stage: readable in logs. */
export function lineView(write: (line: string) => void): ProgressView {
  let stage = '';
  let tenth = -1;
  return {
    update(progress) {
      if (progress.stage !== stage) {
        stage = progress.stage;
        tenth = -1;
      }
      const reached = progress.total > 0 ? Math.floor((10 * progress.done) / progress.total) : 10;
      if (reached <= tenth) return;
      tenth = reached;
      write(`${stage}: ${Math.min(100, reached * 10)} %${progress.detail ? ` · ${progress.detail}` : ''}`);
    },
    stop: () => undefined,
  };
}

/** Nothing at all (`--quiet`). */
export const silentView: ProgressView = { update: () => undefined, stop: () => undefined };
