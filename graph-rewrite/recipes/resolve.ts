import { mergeSettings } from './check.js';
import { defaultGptq, defaultKv } from './recipe.js';
import type { GptqSettings, KvSettings, Recipe, SiteLabel, SiteMatch, SiteSettings } from './recipe.js';

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
  const { weight, activation, outliers } = recipe;
  const override = recipe.overrides.find((each) => matches(each.match, site));
  if (override?.keep !== undefined) return { keep: override.keep };
  return mergeSettings({ weight, activation, outliers }, override?.set ?? {});
}

/** Whether calibration data is needed: to sort channels, or for the Hessians of GPTQ. */
export function needsCalibration(recipe: Recipe): boolean {
  return needsStatistics(recipe) || needsRounding(recipe);
}

/** Whether any layer's channels are sorted, so that activation statistics are needed. */
export function needsStatistics(recipe: Recipe): boolean {
  return recipe.outliers !== null || recipe.overrides.some((each) => Boolean(each.set?.outliers));
}

/** Whether any layer is rounded by GPTQ. */
export function needsRounding(recipe: Recipe): boolean {
  return recipe.weight.rounding === 'gptq' || recipe.overrides.some((each) => each.set?.weight?.rounding === 'gptq');
}

/** All cache settings of a recipe. */
export function kvSettings(recipe: Recipe): KvSettings {
  return { ...defaultKv, ...recipe.kv };
}

/** All GPTQ settings of a recipe. */
export function gptqSettings(recipe: Recipe): GptqSettings {
  return { ...defaultGptq, ...recipe.gptq };
}
