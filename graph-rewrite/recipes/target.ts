/** Chips that want a recipe's codes stored in their own way. The arithmetic, and so the result, stays the same. */
import type { ActivationSettings, Recipe } from './recipe.js';

/** `any`: the forms that every kernel reads. `sm90`: 4-bit activations as NVIDIA Hopper's FP8 tensor cores read them. */
export const targets = ['any', 'sm90'] as const;
export type Target = (typeof targets)[number];

/** The recipe with the storage forms of a target; models made for one run on all others too, more slowly. */
export function forTarget(recipe: Recipe, target: Target): Recipe {
  if (target === 'any') return recipe;
  return {
    ...recipe,
    activation: stored(recipe.activation),
    overrides: recipe.overrides.map((override) =>
      override.set?.activation
        ? { ...override, set: { ...override.set, activation: stored(override.set.activation) } }
        : override,
    ),
  };
}

function stored<T extends Partial<ActivationSettings>>(activation: T): T {
  return activation.format === 's4' ? { ...activation, format: 's4_e4m3' } : activation;
}
