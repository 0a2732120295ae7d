/** Long computations on the one thread that also hears Ctrl-C: they are generators that stop for breath. */
import { setImmediate } from 'node:timers/promises';
import { throwIfAborted, type OnProgress } from '../lm/session.js';

/** Yields at least a few times a second; sometimes how far it is. */
export type Steps<T> = Generator<Parameters<OnProgress>[0] | undefined, T, void>;

/** The result, without a pause. */
export function atOnce<T>(steps: Steps<T>): T {
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
  }
}

/** The result; events come in between. @throws error with code `interrupted` when the signal aborts */
export async function inTurns<T>(
  steps: Steps<T>,
  { signal, onProgress }: { readonly signal?: AbortSignal | undefined; readonly onProgress?: OnProgress | undefined },
): Promise<T> {
  for (;;) {
    const step = steps.next();
    if (step.done) return step.value;
    if (step.value) onProgress?.(step.value);
    await setImmediate();
    throwIfAborted(signal, 'plan');
  }
}
