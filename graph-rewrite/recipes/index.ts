import { usageError } from '../../ops/common/errors.js';
import { readJson } from '../../ops/common/json.js';
import { atomW4a4 } from './atom-w4a4.js';
import { atomW4a4kv4 } from './atom-w4a4kv4.js';
import { checkRecipe } from './check.js';
import type { Field } from './fields.js';
import { kv4 } from './kv4.js';
import { llmInt8 } from './llm-int8.js';
import type { Recipe } from './recipe.js';
import { rptqW4a8 } from './rptq-w4a8.js';
import { smoothQuantW8a8 } from './smoothquant-w8a8.js';
import { w4a16 } from './w4a16.js';
import { w4a4G128 } from './w4a4-g128.js';
import { w4a4 } from './w4a4.js';
import { w8a8 } from './w8a8.js';
import { zeroQuantFpW4a8, zeroQuantFpW8a8 } from './zeroquant-fp.js';
import { zeroQuantW4a8, zeroQuantW8a8 } from './zeroquant.js';

export { checkRecipe } from './check.js';
export { defineRecipe } from './define.js';
export { fields, listFields } from './fields.js';
export type * from './recipe.js';
export {
  gptqSettings,
  kvSettings,
  matchesGlob,
  needsCalibration,
  needsRounding,
  needsSamples,
  needsStatistics,
  resolveSite,
} from './resolve.js';
export type { Resolution } from './resolve.js';
export { withSettings } from './set.js';
export { forTarget, targets, type Target } from './target.js';

/** The recipes that have a name, in the order in which help shows them. */
export const recipes: readonly Recipe[] = [
  atomW4a4,
  atomW4a4kv4,
  w4a4G128,
  w4a4,
  w8a8,
  smoothQuantW8a8,
  llmInt8,
  rptqW4a8,
  zeroQuantW8a8,
  zeroQuantW4a8,
  w4a16,
  kv4,
  zeroQuantFpW4a8,
  zeroQuantFpW8a8,
];

/**
 * A recipe by its name, or from a JSON file (anything that ends in `.json`).
 * @throws usage error that lists the names, or says what is wrong in the file
 */
export function findRecipe(nameOrFile: string): Recipe {
  const named = recipes.find((recipe) => recipe.name === nameOrFile);
  if (named) return named;
  if (!nameOrFile.endsWith('.json')) {
    const names = recipes.map((recipe) => recipe.name).join(', ');
    throw usageError('--recipe', `unknown recipe "${nameOrFile}", expected one of ${names}, or a .json file`);
  }
  const recipe = readJson(nameOrFile, 'a recipe');
  checkRecipe(recipe, nameOrFile);
  return recipe;
}

/** The value of a setting; its default where the recipe says nothing, `none` inside a part that it leaves out. */
export function valueAt(recipe: Recipe, { path, fallback }: Field): string {
  const value = path
    .split('.')
    .reduce<unknown>((object, key) => (object as Record<string, unknown> | null | undefined)?.[key], recipe);
  return String(value ?? fallback ?? 'none');
}
