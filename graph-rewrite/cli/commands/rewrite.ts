/** `rewrite MODEL`: from a float model to one whose linear layers run in 4 or 8 bits. */
import { renameSync, rmSync, writeFileSync } from 'node:fs';
import { usageError } from '../../../ops/common/errors.js';
import { rewrite } from '../../index.js';
import { checkTargets } from '../../onnx/write.js';
import { readPlan, type Plan } from '../../plan/index.js';
import { findRecipe, forTarget, targets, withSettings, type Recipe, type Target } from '../../recipes/index.js';
import {
  calibrationStats,
  noteUnusedCalibration,
  requireCalibration,
  type CalibrationOptions,
} from '../calibration.js';
import { claimOutput } from '../claim.js';
import type { Context } from '../context.js';
import { linearSize } from '../linear-size.js';
import type { CommonOptions } from '../main.js';
import { modelBytes } from '../model-bytes.js';
import { checkOutput, checkPlanOutput, defaultOutput } from '../output.js';
import { describePlan, describeResult, keptLayers, strictSentence, type RewriteSummary } from '../report.js';
import { withinBudget } from '../budget.js';
import { removeRounded, roundedWeights } from '../rounding.js';
import { requireModel } from '../session.js';

interface Options extends CommonOptions, CalibrationOptions {
  readonly output?: string;
  readonly recipe?: string;
  readonly set: readonly string[];
  readonly target?: string;
  readonly budget?: number;
  readonly plan?: string;
  readonly dryRun?: boolean;
  readonly force?: boolean;
  readonly strict?: boolean;
}

export async function run(context: Context, args: readonly string[], options: Options): Promise<number> {
  const started = performance.now();
  const path = args[0]!;
  // The cheap questions first: nothing runs for a minute to fail on a word.
  if (options.plan !== undefined) refuseBesidePlan(options);
  const reviewed = options.plan === undefined ? undefined : readPlan(options.plan);
  const named = (): Recipe => withSettings(findRecipe(options.recipe ?? 'atom-w4a4'), options.set);
  const recipe = reviewed?.recipe ?? forTarget(named(), target(options));
  requireModel(path);
  const output = options.output ?? (options.dryRun ? undefined : defaultOutput(path, recipe));
  const force = options.force ?? false;
  if (output !== undefined && options.dryRun) checkPlanOutput(output, force);
  else if (output !== undefined) checkOutput([output, `${output}_data`], force);
  // A plan has its channel orders; what GPTQ needs is too large for it.
  const { budget } = options;
  if (!reviewed || reviewed.predicted.rounding) requireCalibration(recipe, options, budget !== undefined);

  if (budget === undefined) noteUnusedCalibration(context, recipe, options);
  const release = options.dryRun ? undefined : claimOutput(output!);
  const { plan, model, saved, rounded } = await rewrite({
    ...{ input: path, recipe, force },
    ...(options.dryRun ? {} : { output: output! }),
    ...(reviewed ? { plan: reviewed } : {}),
    ...(budget === undefined ? {} : { refine: withinBudget(context, path, budget, options) }),
    calibrate: (floats, analysis) => calibrationStats(context, floats, analysis, recipe, options),
    round: (floats, analysis, decided) =>
      roundedWeights(context, { path, model: floats, analysis, plan: decided }, output!, options),
    onProgress: context.progress,
    signal: context.signal,
  })
    .then((done) => {
      if (done.rounded) removeRounded(output!);
      return done;
    })
    .finally(release);
  if (!saved) {
    if (output !== undefined) await checkTargets([output], model, force);
    return dryRun(context, plan, output);
  }
  const size = linearSize(model);
  const kept = keptLayers(plan);
  const result: RewriteSummary = {
    ...{ model: path, recipe: recipe.name },
    input: { bytes: modelBytes(model) },
    output: { path: output!, bytes: saved.bytes, files: saved.files },
    sites: { quantized: plan.sites.length - kept.length, kept: kept.length },
    kept,
    ...(rounded
      ? {
          rounding: {
            ...(options.calibration === undefined ? {} : { calibration: options.calibration }),
            layers: rounded,
          },
        }
      : {}),
    ...(plan.caches ? { caches: plan.caches } : {}),
    ...(plan.budget ? { budget: plan.budget } : {}),
    bitsPerWeight: {
      predicted: size.weights > 0 ? (8 * plan.predicted.linearBytes) / size.weights : 0,
      real: size.bitsPerWeight,
    },
    seconds: (performance.now() - started) / 1000,
    peakRssBytes: process.resourceUsage().maxRSS * 1024,
  };
  context.result(result, () => describeResult(result, plan));
  return strictCode(plan, options.strict ?? false);
}

/** A plan says all that these options would. */
function refuseBesidePlan({ dryRun, budget, recipe, set, target: chip }: Options): void {
  const said = { '--dry-run': dryRun, '--budget': budget, '--recipe': recipe, '--set': set[0], '--target': chip };
  for (const [option, value] of Object.entries(said)) {
    if (value !== undefined)
      throw usageError(`--plan, ${option}`, 'both given, expected one', 'Another plan is made with --dry-run.');
  }
}

/** `--target`, checked. */
function target({ target: name = 'any' }: Options): Target {
  const known = targets.find((each) => each === name);
  if (known === undefined)
    throw usageError('--target', `unknown target "${name}", expected one of ${targets.join(', ')}`);
  return known;
}

/** Shows the plan, or writes it for review. */
function dryRun(context: Context, plan: Plan, output: string | undefined): number {
  if (output !== undefined) {
    writeWhole(output, `${JSON.stringify(plan, undefined, 2)}\n`);
    context.note(`${output}: the plan; carry it out with --plan ${output}`);
  }
  context.result(plan, () => describePlan(plan));
  return 0;
}

/** Under a temporary name first: a half-written plan must not look like one. */
function writeWhole(path: string, text: string): void {
  const temporary = `${path}.${process.pid}.tmp`;
  try {
    writeFileSync(temporary, text, { flag: 'wx' });
    renameSync(temporary, path);
  } catch (error) {
    rmSync(temporary, { force: true });
    throw Object.assign(error as Error, { path }); // errors of writing do not name the file
  }
}

/** 1 if --strict forbids what happened. The model is there: it may be looked at. */
function strictCode(plan: Plan, strict: boolean): number {
  const unexpected = [...plan.sites, ...(plan.caches ?? [])].flatMap((each) =>
    each.decision === 'keep' && !each.expected ? [{ name: each.site, reason: each.reason }] : [],
  );
  if (!strict || unexpected.length === 0) return 0;
  process.stderr.write(`${strictSentence(unexpected)}\n`);
  return 1;
}
