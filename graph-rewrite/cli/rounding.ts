/** GPTQ and low-rank terms on the command line: calibration data and native functions for `roundWeights`, and a folder next to the output. */
import { rmSync } from 'node:fs';
import type { Analysis } from '../analyze/index.js';
import type { Model } from '../ir/index.js';
import { loadModel } from '../onnx/read.js';
import type { Plan } from '../plan/index.js';
import { roundWeights, type Rounded } from '../round/index.js';
import { openFeeds, type CalibrationOptions } from './calibration.js';
import type { Context } from './context.js';
import { roundingFunctions, sessionFactory } from './session.js';

/** Rounded layers stay here until the model is written, so that an interrupted command goes on where it was. */
export const roundingFolder = (output: string): string => `${output}.rounding`;

/** Rounds what the plan gives to GPTQ, and makes its low-rank terms. */
export async function roundedWeights(
  context: Context,
  { path, model, analysis, plan }: { path: string; model: Model; analysis: Analysis; plan: Plan },
  output: string,
  options: CalibrationOptions,
): Promise<Rounded> {
  const feeds = plan.predicted.rounding!.passes > 0 ? openFeeds(model, options) : undefined;
  const folder = roundingFolder(output);
  context.note(`${folder}: holds rounded layers until the model is written; run again after an interruption to go on`);
  return roundWeights({
    ...{ analysis, plan, feeds: feeds ?? [], folder },
    total: feeds?.count ?? 0,
    createSession: await sessionFactory(options.threads),
    native: await roundingFunctions(),
    load: () => loadModel(path),
    ...(options.threads === undefined ? {} : { threads: options.threads }),
    onProgress: context.progress,
    signal: context.signal,
  });
}

/** Removes what {@link roundedWeights} left; the model is written. */
export function removeRounded(output: string): void {
  rmSync(roundingFolder(output), { recursive: true, force: true });
}
