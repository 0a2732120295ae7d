/** `rewrite recipes`: what can be done to a model, and every parameter that --set may change. */
import { fields, recipes, valueAt } from '../../recipes/index.js';
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
        fields.map((field) => [field.path, ...recipes.map((recipe) => valueAt(recipe, field))]),
      ),
      table(
        ['parameter', 'legal values', 'meaning'],
        fields.map(({ path, legal, about }) => [path, legal, about]),
      ),
    ].join('\n\n'),
  );
  return Promise.resolve(0);
}
