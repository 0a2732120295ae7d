/** `--budget` on the command line: a few windows of the calibration data to measure losses on. */
import type { RewriteOptions } from '../index.js';
import { loadModel } from '../onnx/read.js';
import { keepWithinBudget } from '../sensitivity/index.js';
import { openFeeds, type CalibrationOptions } from './calibration.js';
import type { Context } from './context.js';
import { sessionFactory } from './session.js';

/** Each group of layers is measured on this many windows: 2048 tokens tell their order. */
const windows = 4;

/** What `rewrite` is given to stay within a budget. */
export function withinBudget(
  context: Context,
  path: string,
  budget: number,
  options: CalibrationOptions,
): NonNullable<RewriteOptions['refine']> {
  return async (recipe, stats) =>
    keepWithinBudget(recipe, budget, {
      load: () => loadModel(path),
      stats,
      feeds: openFeeds(loadModel(path), { ...options, calibrationWindows: windows }),
      createSession: await sessionFactory(options.threads),
      onProgress: context.progress,
      signal: context.signal,
    });
}
