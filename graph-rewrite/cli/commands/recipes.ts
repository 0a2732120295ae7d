/** `rewrite recipes`: what can be done to a model, and every parameter that --set may change. */
import { fields, recipes, type Recipe } from '../../recipes/index.js';
import type { Context } from '../context.js';
import { table } from '../ui/table.js';

export function run(context: Context): Promise<number> {
  const settings = fields.map(({ path, about, legal }) => ({ key: path, about, legal }));
  context.result({ recipes, settings }, () =>
    [
      table(
        ['recipe', 'what it does'],
        recipes.map(({ name, about }) => [name, about]),
      ),
      table(
        ['parameter (--set key=value)', ...recipes.map(({ name }) => name)],
        fields.map(({ path }) => [path, ...recipes.map((recipe) => valueAt(recipe, path))]),
      ),
      table(
        ['parameter', 'legal values', 'meaning'],
        fields.map(({ path, legal, about }) => [path, legal, about]),
      ),
    ].join('\n\n'),
  );
  return Promise.resolve(0);
}

/** The value at a dotted path; `none` inside a part that the recipe leaves out. */
function valueAt(recipe: Recipe, path: string): string {
  let value: unknown = recipe;
  for (const key of path.split('.')) value = (value as Record<string, unknown> | null)?.[key];
  return String(value ?? 'none');
}
