/**
 * The rewriter's public API, and its composition: load → analyze → calibrate → plan → passes → save.
 *
 * Nothing here loads native code: whatever runs a model is handed in.
 */
import { LowbitError, usageError } from '../ops/common/errors.js';
import { analyze, type Analysis } from './analyze/index.js';
import type { Model } from './ir/index.js';
import { throwIfAborted, type OnProgress } from './lm/session.js';
import { loadModel } from './onnx/read.js';
import { saveModel } from './onnx/write.js';
import { applyPlan, type RewriteReport } from './passes/index.js';
import { checkPlanFor, inTurns, planSteps, type Plan, type StatsByValue } from './plan/index.js';
import { needsStatistics, type Recipe } from './recipes/index.js';
import type { Rounded, RoundedLayer } from './round/index.js';
import type { BudgetResult } from './sensitivity/index.js';

export { analyze, type Analysis, type InputGroup, type LinearSite } from './analyze/index.js';
export {
  calibrate,
  loadStats,
  recordedFeeds,
  saveStats,
  textFeeds,
  tokenFeeds,
  type CalibrateOptions,
  type ChannelStats,
} from './calibrate/index.js';
export {
  Detokenizer,
  loadTokenizer,
  perplexity,
  readTokens,
  textFacts,
  type CreateSession,
  type ModelSession,
} from './lm/index.js';
export { keepWithinBudget, type BudgetResult, type MeasureOptions } from './sensitivity/index.js';
export { compareModels, type Comparison } from './verify/index.js';
export type { Model } from './ir/index.js';
export { loadModel } from './onnx/read.js';
export { saveModel } from './onnx/write.js';
export { applyPlan, type RewriteReport } from './passes/index.js';
export { explain, makePlan, readPlan, type Plan, type StatsByValue } from './plan/index.js';
export { findRecipe, forTarget, recipes, withSettings, type Recipe, type Target } from './recipes/index.js';
export { roundWeights, type Rounded, type RoundedLayer, type RoundOptions } from './round/index.js';

export interface RewriteOptions {
  /** Float model to read. */
  readonly input: string;
  /** Where to write; nothing is written without it. */
  readonly output?: string;
  readonly recipe: Recipe;
  /** Decisions made before; takes the place of recipe and calibration. */
  readonly plan?: Plan;
  /** Changes the recipe by what the model loses under it; see `keepWithinBudget`. */
  readonly refine?: (recipe: Recipe, stats: StatsByValue | undefined) => Promise<BudgetResult>;
  /** Collects statistics of the float model, if the recipe needs them; see `calibrate`. */
  readonly calibrate?: (model: Model, analysis: Analysis) => Promise<StatsByValue>;
  /** Rounds the weights that the plan gives to GPTQ; see `roundWeights`. */
  readonly round?: (model: Model, analysis: Analysis, plan: Plan) => Promise<Rounded>;
  /** Replace an output that exists. */
  readonly force?: boolean;
  /** `done` and `total` count what the stage says: samples, or bytes. */
  readonly onProgress?: OnProgress;
  readonly signal?: AbortSignal;
}

export interface RewriteResult {
  readonly plan: Plan;
  /** The model in memory: rewritten, or as it was read when nothing was written. Its weights are read when asked for. */
  readonly model: Model;
  /** Absent when nothing was written. */
  readonly report?: RewriteReport;
  /** What GPTQ gained, by product. */
  readonly rounded?: readonly RoundedLayer[];
  readonly saved?: { readonly bytes: number; readonly files: readonly string[] };
}

/**
 * Rewrites a model file by a recipe or a plan.
 * @throws usage error if the recipe needs calibration and nothing can give it
 */
export async function rewrite(options: RewriteOptions): Promise<RewriteResult> {
  const { input, output, signal } = options;
  const model = loadModel(input);
  const analysis = analyze(model);
  if (options.plan) checkPlanFor(options.plan, model, analysis); // before hours of rounding
  const plan = options.plan ?? (await decide(model, analysis, options));
  throwIfAborted(signal, 'rewrite');
  if (output === undefined) return { plan, model };
  try {
    return await carryOut(model, analysis, plan, output, options);
  } catch (error) {
    throw options.plan ? ofEdited(error) : error;
  }
}

async function carryOut(
  model: Model,
  analysis: Analysis,
  plan: Plan,
  output: string,
  { round, force, signal, onProgress }: RewriteOptions,
): Promise<RewriteResult> {
  const rounded = plan.predicted.rounding && (await round?.(model, analysis, plan));
  throwIfAborted(signal, 'rewrite');
  const report = applyPlan(model, plan, analysis, rounded?.weights);
  const saved = await saveModel(model, output, {
    ...(force === undefined ? {} : { force }),
    ...(signal ? { signal } : {}),
    ...(onProgress ? { progress: onProgress } : {}),
  });
  return { plan, model, report, saved, ...(rounded ? { rounded: rounded.layers } : {}) };
}

/** People edit plans: what does not hold together in one is theirs to mend, unless it is as it was written. */
function ofEdited(error: unknown): unknown {
  if (!(error instanceof LowbitError && error.code === 'internal')) return error;
  const found = error.message.replace(/^internal: /, '').replace(`. ${error.hint}`, '');
  return usageError(
    'plan',
    `does not hold together: ${found}`,
    'Undo what was edited. If nothing was, this is a bug; report it with the output of `rewrite doctor`.',
  );
}

async function decide(model: Model, analysis: Analysis, options: RewriteOptions): Promise<Plan> {
  const stats = await statistics(model, analysis, options);
  const plan = (recipe: Recipe) => inTurns(planSteps(analysis, stats, recipe, model), options);
  if (!options.refine) return plan(options.recipe);
  const { recipe, report } = await options.refine(options.recipe, stats);
  return { ...(await plan(recipe)), budget: report };
}

async function statistics(
  model: Model,
  analysis: Analysis,
  { recipe, calibrate }: RewriteOptions,
): Promise<StatsByValue | undefined> {
  if (!needsStatistics(recipe)) return undefined;
  if (!calibrate)
    throw usageError(
      `recipe "${recipe.name}"`,
      'sorts or smooths channels and there is no calibration, expected text or recorded feeds',
      'Give --calibration, or set outliers=none and smooth=none.',
    );
  return calibrate(model, analysis);
}
