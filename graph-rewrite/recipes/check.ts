import { usageError } from '../../ops/common/errors.js';
import { fields, siteFields } from './fields.js';
import type { Field } from './fields.js';
import { defaultOutliers, defaultSmooth } from './recipe.js';
import type { Override, Recipe, SiteSettings } from './recipe.js';

type JsonObject = Record<string, unknown>;

/** Parts of a recipe that may be null: the recipe does without. */
export const nullableParts: readonly string[] = ['outliers', 'smooth'];

const isObject = (value: unknown): value is JsonObject =>
  typeof value === 'object' && value !== null && !Array.isArray(value);

/** Checks the keys of `value` against `known` and each given scalar against its field. */
function checkScalars(at: string, value: JsonObject, table: readonly Field[], extra: readonly string[]): void {
  const known = new Set([...table.map((field) => field.path.split('.')[0]!), ...extra]);
  for (const key of Object.keys(value)) {
    if (!known.has(key)) throw usageError(at, `unknown key "${key}", expected one of ${[...known].sort().join(', ')}`);
    if (extra.includes(key) || (value[key] === null && nullableParts.includes(key))) continue;
    const nested = table.filter((field) => field.path.startsWith(`${key}.`));
    if (nested.length === 0) checkOne(at, key, value[key], table);
    else checkNested(at, key, value[key], nested);
  }
}

function checkNested(at: string, key: string, value: unknown, nested: readonly Field[]): void {
  if (!isObject(value)) throw usageError(at, `${key} is ${JSON.stringify(value)}, expected an object`);
  for (const [inner, each] of Object.entries(value)) {
    if (!nested.some((field) => field.path === `${key}.${inner}`)) {
      const legal = nested.map((field) => field.path.slice(key.length + 1)).sort();
      throw usageError(at, `unknown key "${key}.${inner}", expected one of ${legal.join(', ')}`);
    }
    checkOne(at, `${key}.${inner}`, each, nested);
  }
}

function checkOne(at: string, path: string, value: unknown, table: readonly Field[]): void {
  const field = table.find((each) => each.path === path)!;
  if (!field.allows(value)) throw usageError(at, `${path} is ${JSON.stringify(value)}, expected ${field.legal}`);
}

/** Rules between settings of one layer that no operator could carry out. */
function checkTogether(at: string, { weight, activation, outliers, smooth, lorc }: SiteSettings): void {
  const groups = [weight.groupSize, activation.groupSize];
  if (activation.format !== 'none' && groups.every((size) => size > 0) && groups[0] !== groups[1]) {
    throw usageError(
      at,
      `weight.groupSize is ${groups[0]} and activation.groupSize is ${groups[1]}, expected equal sizes, or 0 for one of them`,
      'One integer sum covers one group of both.',
    );
  }
  if (activation.format === 'none' && outliers !== null) {
    throw usageError(
      at,
      'outliers are set and activation.format is none, expected no outliers with float activations',
      'Use outliers=none.',
    );
  }
  if (activation.threshold) {
    const plain =
      weight.format === 's8' &&
      activation.format === 's8' &&
      groups.every((size) => size === 0) &&
      activation.clip === 1;
    if (!plain || outliers !== null || (lorc?.rank ?? 0) > 0)
      throw usageError(
        at,
        `activation.threshold is ${activation.threshold}, expected it with s8 weights and activations without groups, clip, outliers and lorc`,
        'Use activation.threshold=0.',
      );
  }
  if (activation.format === 'none' && smooth) {
    throw usageError(
      at,
      'smooth is set and activation.format is none, expected no smoothing of float activations',
      'Use smooth=none.',
    );
  }
}

function checkOverride(at: string, value: unknown): void {
  if (!isObject(value)) throw usageError(at, `is ${JSON.stringify(value)}, expected an object with "match"`);
  for (const key of Object.keys(value)) {
    if (!['match', 'keep', 'set'].includes(key))
      throw usageError(at, `unknown key "${key}", expected one of keep, match, set`);
  }
  const { match, keep, set } = value;
  if (!isObject(match) || Object.keys(match).length === 0)
    throw usageError(at, `match is ${JSON.stringify(match)}, expected an object with role, name or layer`);
  for (const [key, each] of Object.entries(match)) {
    const legal = key === 'layer' ? Number.isInteger(each) : ['role', 'name'].includes(key) && typeof each === 'string';
    if (!legal)
      throw usageError(
        at,
        `match.${key} is ${JSON.stringify(each)}, expected role (text), name (text) or layer (integer)`,
      );
  }
  if ((keep === undefined) === (set === undefined)) throw usageError(at, 'expected exactly one of keep and set');
  if (keep !== undefined && (typeof keep !== 'string' || keep === ''))
    throw usageError(at, `keep is ${JSON.stringify(keep)}, expected the reason as text`);
  if (set !== undefined) {
    if (!isObject(set)) throw usageError(at, `set is ${JSON.stringify(set)}, expected an object`);
    checkScalars(`${at}.set`, set, siteFields, []);
  }
}

/**
 * Checks that a JSON value is a complete recipe.
 * @throws usage error that names the recipe, the key, its value and what is legal
 */
export function checkRecipe(value: unknown, source = 'recipe'): asserts value is Recipe {
  if (!isObject(value)) throw usageError(source, `is ${JSON.stringify(value)}, expected a JSON object`);
  const at = typeof value['name'] === 'string' ? `recipe "${value['name']}"` : source;
  checkScalars(at, value, fields, ['name', 'about', 'version', 'overrides']);
  for (const key of ['name', 'about']) {
    if (typeof value[key] !== 'string' || value[key] === '')
      throw usageError(at, `${key} is ${JSON.stringify(value[key])}, expected text`);
  }
  if (value['version'] !== 1) throw usageError(at, `version is ${JSON.stringify(value['version'])}, expected 1`);
  for (const { path, fallback } of fields) {
    if (fallback !== undefined) continue;
    const [outer, inner] = path.split('.') as [string, string | undefined];
    const object = value[outer];
    if (object === null && nullableParts.includes(outer)) continue;
    if (object === undefined || (inner !== undefined && (object as JsonObject)[inner] === undefined))
      throw usageError(at, `${path} is missing`);
  }
  const overrides = value['overrides'];
  if (!Array.isArray(overrides))
    throw usageError(at, `overrides is ${JSON.stringify(overrides)}, expected a list, which may be empty`);
  overrides.forEach((each, i) => checkOverride(`${at}: overrides[${i}]`, each));
  const recipe = value as unknown as Recipe;
  checkTogether(at, recipe);
  recipe.overrides.forEach((each, i) => {
    if (each.set) checkTogether(`${at}: overrides[${i}]`, mergeSettings(recipe, each.set));
  });
}

/** The settings of a recipe with those of an override put over them. */
export function mergeSettings(base: SiteSettings, set: NonNullable<Override['set']>): SiteSettings {
  return {
    weight: { ...base.weight, ...set.weight },
    activation: { ...base.activation, ...set.activation },
    outliers: mergePart(base.outliers, set.outliers, defaultOutliers),
    smooth: mergePart(base.smooth ?? null, set.smooth, defaultSmooth),
    ...(base.lorc || set.lorc ? { lorc: { ...base.lorc, ...set.lorc } } : {}),
  };
}

function mergePart<T>(base: T | null, set: Partial<T> | null | undefined, fallback: T): T | null {
  if (set === null) return null;
  if (set === undefined) return base && { ...fallback, ...base };
  return { ...(base ?? fallback), ...set };
}
