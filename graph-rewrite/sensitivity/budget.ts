/** Keeps the layers that a recipe hurts most at 8 bits, until the loss that is predicted lies within a budget. */
import { inputError, usageError } from '../../ops/common/errors.js';
import { isMinifloat } from '../../ops/formats/minifloat.js';
import { analyze } from '../analyze/index.js';
import { inTurns, planSteps, type BudgetReport, type Plan } from '../plan/index.js';
import type { Override, Recipe } from '../recipes/index.js';
import { measureAlone, measureCache, separateLayers, type MeasureOptions, type SensitiveLayers } from './measure.js';
import { Reference } from './reference.js';

export interface BudgetResult {
  /** The recipe with an override for every layer that stays at 8 bits. */
  readonly recipe: Recipe;
  readonly report: BudgetReport;
}

/**
 * Measures what each group of layers costs on its own, and moves the worst to 8 bits one after the other. The prediction is the sum over
 * all groups, which takes errors of different layers as independent.
 * @param budget mean KL divergence from the float model, nats a token; about the rise of the log perplexity
 * @throws usage error for a budget that is no positive number; input error if even 8 bits everywhere miss it
 */
export async function keepWithinBudget(recipe: Recipe, budget: number, options: MeasureOptions): Promise<BudgetResult> {
  if (!(budget > 0 && Number.isFinite(budget))) throw usageError('budget', `is ${budget}, expected a number above 0`);
  const model = options.load();
  const plan = await inTurns(planSteps(analyze(model), options.stats, recipe, model), options);
  const reference = await Reference.open(model, options.feeds, options.createSession);
  try {
    return await moveTheWorst(recipe, budget, plan, reference, options);
  } finally {
    await reference.release();
  }
}

async function moveTheWorst(
  recipe: Recipe,
  budget: number,
  plan: Plan,
  reference: Reference,
  options: MeasureOptions,
): Promise<BudgetResult> {
  const groups = separateLayers(plan);
  const cached = plan.caches?.some(({ decision }) => decision === 'quantize') ?? false;
  const cacheLoss = cached ? await measureCache(recipe, reference, options) : undefined;
  const measured: (SensitiveLayers & { loss: number; lossAt8Bits?: number })[] = [];
  const progress = (extra: number): void =>
    options.onProgress?.({ stage: 'sensitivity', done: measured.length + extra, total: groups.length + extra });
  for (const group of groups) {
    measured.push({ ...group, loss: await measureAlone(group, recipe, reference, options) });
    progress(0);
  }
  const worstFirst = [...measured].sort((a, b) => b.loss - a.loss);
  const eightBits: Recipe = { ...recipe, ...settingsAt8Bits(recipe), overrides: [] };
  const predicted = (): number =>
    measured.reduce((sum, { loss, lossAt8Bits }) => sum + (lossAt8Bits ?? loss), cacheLoss ?? 0);
  let moved = 0;
  // Written so that a loss which is not a number never counts as within the budget.
  while (!(predicted() <= budget)) {
    const next = worstFirst[moved];
    if (!next)
      throw inputError(
        'budget',
        `is ${budget} nats a token, and with all layers at 8 bits the predicted loss is ${predicted().toPrecision(3)}${ofCache(cacheLoss)}`,
        'Give a larger one, or a recipe that loses less.',
      );
    next.lossAt8Bits = await measureAlone(next, eightBits, reference, options);
    moved++;
    progress(moved);
  }
  const kept = worstFirst.slice(0, moved);
  return {
    recipe: {
      ...recipe,
      overrides: [...kept.flatMap((group) => overridesOf(group.sites, recipe)), ...recipe.overrides],
    },
    report: {
      ...{ budget, predicted: predicted(), groups: measured },
      ...(cacheLoss === undefined ? {} : { cacheLoss }),
    },
  };
}

const ofCache = (loss: number | undefined): string =>
  loss === undefined ? '' : `, ${loss.toPrecision(3)} of it the cache's`;

function overridesOf(sites: readonly string[], recipe: Recipe): Override[] {
  const { weight, activation } = settingsAt8Bits(recipe);
  return sites.map((name) => ({ match: { name }, set: { weight, activation } }));
}

/**
 * The 8-bit form of a recipe's layers: one scale a channel and a token for integers, the recipe's groups for floats. Outlier channels stay as
 * they are; float activations too.
 */
function settingsAt8Bits({ weight, activation }: Recipe): Pick<Recipe, 'weight' | 'activation'> {
  const floats = isMinifloat(weight.format);
  return {
    weight: {
      ...{ format: floats ? 'e4m3' : 's8', groupSize: floats ? weight.groupSize : 0 },
      ...{ clip: 1, channelGroup: 1, rounding: 'rtn', scaleConstraint: 'none' },
    },
    activation: {
      format: activation.format === 'none' || isMinifloat(activation.format) ? activation.format : 's8',
      ...{ groupSize: 0, clip: 1 },
    },
  };
}
