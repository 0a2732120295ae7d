import { usageError } from '../../ops/common/errors.js';
import { checkRecipe, nullableParts } from './check.js';
import { fields, listFields } from './fields.js';
import { defaultGptq, defaultKv, defaultLorc, defaultOutliers, defaultSmooth } from './recipe.js';
import type { Recipe } from './recipe.js';

type Draft = Record<string, unknown>;

/** What a part that a recipe leaves out begins with when one of its settings is given. */
const defaults: Readonly<Record<string, object>> = {
  ...{ gptq: defaultGptq, kv: defaultKv, lorc: defaultLorc },
  ...{ outliers: defaultOutliers, smooth: defaultSmooth },
};

function parseScalar(text: string): unknown {
  if (text === 'true' || text === 'false') return text === 'true';
  return text.trim() !== '' && Number.isFinite(Number(text)) ? Number(text) : text;
}

function parseOverrides(at: string, text: string): unknown {
  try {
    return JSON.parse(text);
  } catch (error) {
    throw usageError(at, `overrides is not JSON (${(error as Error).message}), expected a list such as []`);
  }
}

/**
 * A recipe with settings from the command line put over it.
 * @param settings `key=value`, with a dotted path as the key: `weight.groupSize=64`, `outliers=none`, `overrides=[]`
 * @throws usage error that lists the legal keys or values
 */
export function withSettings(recipe: Recipe, settings: readonly string[]): Recipe {
  const draft = structuredClone(recipe) as unknown as Draft;
  for (const setting of settings) {
    const at = `--set ${setting}`;
    const split = setting.indexOf('=');
    if (split < 1) throw usageError(at, 'expected key=value', `Legal keys and values:\n${listFields()}`);
    const key = setting.slice(0, split);
    const text = setting.slice(split + 1);
    if (nullableParts.includes(key) && (text === 'none' || text === 'null')) {
      draft[key] = null;
    } else if (key === 'overrides') {
      draft['overrides'] = parseOverrides(at, text);
    } else {
      setField(draft, at, key, parseScalar(text));
    }
  }
  checkRecipe(draft);
  return draft;
}

function setField(draft: Draft, at: string, key: string, value: unknown): void {
  const field = fields.find((each) => each.path === key);
  if (!field) {
    const extra = [...nullableParts.map((part) => `  ${part}  none`), '  overrides  a JSON list'].join('\n');
    throw usageError(at, `unknown key "${key}"`, `Legal keys and values:\n${listFields()}\n${extra}`);
  }
  if (!field.allows(value)) throw usageError(at, `value is ${JSON.stringify(value)}, expected ${field.legal}`);
  const [outer, inner] = key.split('.') as [string, string | undefined];
  if (inner === undefined) draft[outer] = value;
  else
    draft[outer] = {
      ...((draft[outer] ?? defaults[outer]) as Draft),
      [inner]: value,
    };
}
