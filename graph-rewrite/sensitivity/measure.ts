import { analyze, type Analysis } from '../analyze/index.js';
import type { Model } from '../ir/model.js';
import { openModel } from '../lm/open.js';
import type { CreateSession, Feeds, OnProgress } from '../lm/session.js';
import { throwIfAborted } from '../lm/session.js';
import { applyPlan } from '../passes/index.js';
import { inTurns, planSteps, type Plan, type StatsByValue } from '../plan/index.js';
import type { Recipe } from '../recipes/index.js';
import { quantizedFeeds } from '../verify/index.js';
import type { Reference } from './reference.js';

export interface MeasureOptions {
  /** Reads the float model; every measurement changes a copy of its own. */
  readonly load: () => Model;
  readonly stats: StatsByValue | undefined;
  /** A few windows; gone through once for every measurement. */
  readonly feeds: Iterable<Feeds>;
  readonly createSession: CreateSession;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

/** Layers that share a quantized input; they are kept or quantized together. */
export interface SensitiveLayers {
  readonly sites: readonly string[];
  /** Weights in them. */
  readonly weights: number;
}

/**
 * What a recipe costs when only these layers follow it and all others stay float: mean KL divergence of the predictions from the float
 * model's, nats a token, weights rounded to nearest and no low-rank terms. Measured by running that model, so weight and activation errors both count.
 */
export async function measureAlone(
  layers: SensitiveLayers,
  recipe: Recipe,
  reference: Reference,
  options: MeasureOptions,
): Promise<number> {
  return measure(recipeFor, reference, options);

  function recipeFor({ linears }: Analysis): Recipe {
    const others = linears.filter(({ name }) => !layers.sites.includes(name));
    return {
      ...recipe,
      weight: { ...recipe.weight, rounding: 'rtn' },
      lorc: { rank: 0 },
      kv: { ...recipe.kv, bits: 0 },
      overrides: [
        ...others.map(({ name }) => ({ match: { name }, keep: 'measured on its own' })),
        ...recipe.overrides.map(simplyRounded),
      ],
    };
  }
}

/** What the quantized cache of a recipe costs when all layers stay float, in the same measure. */
export async function measureCache(recipe: Recipe, reference: Reference, options: MeasureOptions): Promise<number> {
  const alone: Recipe = { ...recipe, overrides: [{ match: { name: '*' }, keep: 'the cache is measured on its own' }] };
  return measure(() => alone, reference, options);
}

async function measure(
  recipeFor: (analysis: Analysis) => Recipe,
  reference: Reference,
  { load, stats, createSession, signal }: MeasureOptions,
): Promise<number> {
  throwIfAborted(signal, 'sensitivity');
  const model = load();
  const analysis = analyze(model);
  applyPlan(model, await inTurns(planSteps(analysis, stats, recipeFor(analysis), model), { signal }), analysis);
  const session = await openModel(model, createSession);
  try {
    return await reference.divergence(session, quantizedFeeds(model), signal);
  } finally {
    await session.release();
  }
}

/** To nearest, without a low-rank term. */
function simplyRounded(override: Recipe['overrides'][number]): Recipe['overrides'][number] {
  if (!override.set) return override;
  return {
    ...override,
    set: { ...override.set, weight: { ...override.set.weight, rounding: 'rtn' }, lorc: { rank: 0 } },
  };
}

/** The layers of a plan that can be quantized apart from the others, in graph order. */
export function separateLayers({ inputs, sites }: Pick<Plan, 'inputs' | 'sites'>): SensitiveLayers[] {
  const weightsOf = new Map(sites.map(({ site, K, N }) => [site, K * N]));
  return inputs.map((input) => ({
    sites: input.sites,
    weights: input.sites.reduce((sum, site) => sum + (weightsOf.get(site) ?? 0), 0),
  }));
}
