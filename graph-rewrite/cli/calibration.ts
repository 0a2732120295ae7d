/** Calibration data from `--calibration FILE`: text, token ids or recorded feeds, told apart by the file's name. */
import { statSync } from 'node:fs';
import { inputError, usageError } from '../../ops/common/errors.js';
import {
  calibrate,
  recordedFeeds,
  textFeeds,
  tokenFeeds,
  type ChannelStats,
  type FeedList,
} from '../calibrate/index.js';
import type { Analysis } from '../analyze/index.js';
import type { Model } from '../ir/index.js';
import { loadTokenizer, readTokens } from '../lm/index.js';
import { needsCalibration, needsSamples, needsStatistics, type Recipe } from '../recipes/index.js';
import type { Context } from './context.js';
import { sessionFactory } from './session.js';

export interface CalibrationOptions {
  readonly calibration?: string;
  readonly tokenizer?: string;
  readonly calibrationWindows?: number;
  readonly calibrationLength?: number;
  readonly threads?: number;
}

/**
 * Refuses a recipe that sorts channels, or rounds by GPTQ, without data for that; says what to give.
 * @param budget the loss is measured on the data too
 */
export function requireCalibration(recipe: Recipe, options: CalibrationOptions, budget: boolean): void {
  const { calibration, tokenizer } = options;
  if (calibration === undefined) {
    if (!needsCalibration(recipe) && !budget) return;
    if (budget) throw usageError('--calibration', 'none given, expected data to measure the loss on for --budget');
    throw usageError(
      '--calibration',
      `none given, expected data for recipe "${recipe.name}", which ${needsStatistics(recipe) ? 'sorts or smooths channels' : 'rounds weights'} by what flows through them`,
      'Give --calibration TEXT.txt --tokenizer tokenizer.json, or --calibration IDS.npy, or --calibration FEEDS.npz; or choose a recipe without outliers and smoothing and with weight.rounding=rtn.',
    );
  }
  if (!statSync(calibration, { throwIfNoEntry: false })) {
    throw inputError(calibration, 'no such file, expected calibration data', 'Check the path.');
  }
  if (isText(calibration) && tokenizer === undefined) {
    throw usageError('--tokenizer', 'none given, expected the tokenizer.json of the model for calibration on text');
  }
  if (isRecorded(calibration)) refuseWindows(options);
}

/** Recorded feeds are run as they are. */
function refuseWindows({ calibrationWindows, calibrationLength }: CalibrationOptions): void {
  const given = { '--calibration-windows': calibrationWindows, '--calibration-length': calibrationLength };
  for (const [option, value] of Object.entries(given)) {
    if (value !== undefined)
      throw usageError(option, 'given with recorded feeds, which are run as they are, expected text or token ids');
  }
}

/** Says so when data were given that the recipe has no use for. */
export function noteUnusedCalibration(context: Context, recipe: Recipe, { calibration }: CalibrationOptions): void {
  if (calibration === undefined || needsCalibration(recipe)) return;
  context.note(
    `--calibration: not needed, recipe "${recipe.name}" neither sorts nor smooths channels, nor rounds by GPTQ`,
  );
}

/** Runs the float model on the data, for what the recipe needs of it. */
export async function calibrationStats(
  context: Context,
  model: Model,
  analysis: Analysis,
  recipe: Recipe,
  options: CalibrationOptions,
): Promise<Map<string, ChannelStats>> {
  const feeds = openFeeds(model, options);
  return calibrate({
    ...{ model, analysis, feeds },
    samples: needsSamples(recipe),
    total: feeds.count,
    createSession: await sessionFactory(options.threads),
    onProgress: context.progress,
    signal: context.signal,
  });
}

/** The data that `--calibration` names. */
export function openFeeds(model: Model, options: CalibrationOptions): FeedList {
  const at = options.calibration!;
  const { calibrationWindows: count, calibrationLength: length } = options;
  const windows = { ...(count === undefined ? {} : { count }), ...(length === undefined ? {} : { length }) };
  if (isRecorded(at)) return recordedFeeds(model, [at]);
  if (at.endsWith('.npy')) return tokenFeeds(model, readTokens(at), { ...windows, at });
  return textFeeds(model, at, loadTokenizer(options.tokenizer!), windows);
}

const isRecorded = (file: string): boolean => file.endsWith('.npz');

function isText(file: string): boolean {
  return !/\.np[yz]$/.test(file);
}
