import { mergeSettings } from './check.js';
import { defaultGptq, defaultKv, defaultLorc } from './recipe.js';
import type { GptqSettings, KvSettings, LorcSettings, Recipe, SiteLabel, SiteMatch, SiteSettings } from './recipe.js';

/** What a recipe says about one layer: its settings, or the reason why it stays float. */
export type Resolution = ({ readonly keep?: undefined } & SiteSettings) | { readonly keep: string };

/** Whether a name matches a pattern in which `*` is any text (also `/`) and `?` one character. */
export function matchesGlob(pattern: string, name: string): boolean {
  const source = pattern
    .replace(/[.+^${}()|[\]\\]/g, '\\$&')
    .replace(/\*/g, '.*')
    .replace(/\?/g, '.');
  return new RegExp(`^${source}$`, 's').test(name);
}

function matches(match: SiteMatch, site: SiteLabel): boolean {
  return (
    (match.role === undefined || match.role === site.role) &&
    (match.layer === undefined || match.layer === site.layer) &&
    (match.name === undefined || matchesGlob(match.name, site.name))
  );
}

/** Applies the first override that matches the layer; without one, the recipe's own settings hold. */
export function resolveSite(recipe: Recipe, site: SiteLabel): Resolution {
  const { weight, activation, outliers, smooth = null, lorc } = recipe;
  const override = recipe.overrides.find((each) => matches(each.match, site));
  if (override?.keep !== undefined) return { keep: override.keep };
  const merged = mergeSettings({ weight, activation, outliers, smooth, ...(lorc && { lorc }) }, override?.set ?? {});
  if (merged.activation.format !== 'none') return merged;
  return { ...merged, activation: { ...merged.activation, groupSize: 0 } }; // floats have no scales
}

/** Whether calibration data is needed: to sort channels, or for the Hessians of GPTQ. */
export function needsCalibration(recipe: Recipe): boolean {
  return needsStatistics(recipe) || needsRounding(recipe);
}

/** Whether any layer needs activation statistics: to sort or smooth channels, or to weigh the errors of a clip search. */
export function needsStatistics(recipe: Recipe): boolean {
  return settingsOf(recipe).some(
    ({ outliers, smooth, weight }) => Boolean(outliers) || Boolean(smooth) || weight?.clipSearch === 'hessian',
  );
}

/** Whether statistics must hold sample rows: for a choice that tries them out. */
export function needsSamples(recipe: Recipe): boolean {
  return settingsOf(recipe).some(({ smooth }) => smooth?.alpha === 'search');
}

/** The recipe's own settings and those of its overrides. */
const settingsOf = (recipe: Recipe) => [recipe, ...recipe.overrides.map(({ set }) => set ?? {})];

/** Whether any layer is rounded by GPTQ. */
export function needsRounding(recipe: Recipe): boolean {
  return recipe.weight.rounding === 'gptq' || recipe.overrides.some((each) => each.set?.weight?.rounding === 'gptq');
}

/** The low-rank term of a layer; undefined without one. */
export function lorcSettings({ lorc }: SiteSettings): LorcSettings | undefined {
  const settings = { ...defaultLorc, ...lorc };
  return settings.rank > 0 ? settings : undefined;
}

/** All cache settings of a recipe. */
export function kvSettings(recipe: Recipe): KvSettings {
  return { ...defaultKv, ...recipe.kv };
}

/** All GPTQ settings of a recipe. */
export function gptqSettings(recipe: Recipe): GptqSettings {
  return { ...defaultGptq, ...recipe.gptq };
}
