import { checkRecipe } from './check.js';
import type { Recipe } from './recipe.js';

/** Declares a recipe: checks it as a recipe from a file is checked, and freezes it. */
export function defineRecipe(recipe: Recipe): Recipe {
  checkRecipe(recipe);
  return Object.freeze(recipe);
}
