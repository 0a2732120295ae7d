/** Reads a plan back from JSON and checks all of it: people edit plans. */
import { usageError } from '../../ops/common/errors.js';
import { readJson } from '../../ops/common/json.js';
import { activationFormats, weightFormats } from '../../ops/formats/formats.js';
import { roles } from '../analyze/sites.js';
import { checkRecipe } from '../recipes/index.js';
import { decodeFactors, decodeOrder, type Plan, type PlanInput, type PlanWeight } from './plan.js';

type Check = (value: unknown, at: string) => void;

const wrong = (at: string, value: unknown, expected: string) =>
  usageError(
    at,
    `is ${JSON.stringify(value)?.slice(0, 80)}, expected ${expected}`,
    'Make the plan anew with --dry-run.',
  );

const text: Check = (value, at) => {
  if (typeof value !== 'string') throw wrong(at, value, 'a text');
};
const flag: Check = (value, at) => {
  if (typeof value !== 'boolean') throw wrong(at, value, 'true or false');
};
const count: Check = (value, at) => {
  if (!Number.isSafeInteger(value) || (value as number) < 0) throw wrong(at, value, 'a whole number from 0');
};
const ratio: Check = (value, at) => {
  if (typeof value !== 'number' || !(value > 0 && value <= 1)) throw wrong(at, value, 'a number above 0, at most 1');
};
const amount: Check = (value, at) => {
  if (typeof value !== 'number' || !(value >= 0)) throw wrong(at, value, 'a number from 0');
};
const positive: Check = (value, at) => {
  if (typeof value !== 'number' || !(value > 0 && value < Infinity)) throw wrong(at, value, 'a number above 0');
};
const oneOf =
  (...words: readonly unknown[]): Check =>
  (value, at) => {
    if (!words.includes(value)) throw wrong(at, value, `one of ${words.join(', ')}`);
  };
const listOf =
  (each: Check): Check =>
  (value, at) => {
    if (!Array.isArray(value)) throw wrong(at, value, 'a list');
    value.forEach((item, i) => each(item, `${at}[${i}]`));
  };

/** An object with these keys; a `?` at the end of a key makes it optional. */
const object =
  (keys: Readonly<Record<string, Check>>): Check =>
  (value, at) => {
    if (typeof value !== 'object' || value === null || Array.isArray(value)) throw wrong(at, value, 'an object');
    const given = value as Record<string, unknown>;
    const names = Object.keys(keys).map((key) => key.replace(/\?$/, ''));
    const unknown = Object.keys(given).find((key) => !names.includes(key));
    if (unknown !== undefined) throw usageError(at, `unknown key "${unknown}", expected ${names.join(', ')}`);
    for (const [key, check] of Object.entries(keys)) {
      const name = key.replace(/\?$/, '');
      if (given[name] === undefined && key.endsWith('?')) continue;
      check(given[name], `${at}.${name}`);
    }
  };

const base = { site: text, role: oneOf(...roles), 'layer?': count, K: count, N: count };
const weight = object({
  format: oneOf(...weightFormats),
  groupSize: count,
  clip: ratio,
  channelGroup: oneOf(1, 2),
  outlierChannels: count,
  rounding: oneOf('rtn', 'gptq'),
  'scaleConstraint?': oneOf('none', 'm1', 'm2'),
  'scaleRound?': oneOf('ceil', 'floor', 'best'),
  'lorc?': object({ rank: oneOf(...Array.from({ length: 256 }, (_, i) => i + 1)), bits: oneOf(8, 16) }),
  'clipSearch?': oneOf('none', 'mse', 'hessian'),
});
const quantizedSite = object({
  ...base,
  decision: oneOf('quantize'),
  input: text,
  weight,
  'rowOrder?': text,
  'rowSmooth?': text,
  'merge?': text,
  bytes: count,
  notes: listOf(text),
});
const keptSite = object({ ...base, decision: oneOf('keep'), reason: text, expected: flag });

const cacheBase = { site: text, 'layer?': count };
const quantizedCache = object({
  ...cacheBase,
  decision: oneOf('quantize'),
  bits: oneOf(4, 8),
  rope: oneOf('pre', 'post', 'none'),
  clip: ratio,
  form: oneOf('growing', 'in_place'),
  bytesPerToken: count,
  floatBytesPerToken: count,
  notes: listOf(text),
});
const keptCache = object({ ...cacheBase, decision: oneOf('keep'), reason: text, expected: flag });

/** Either form of an entry, by its decision. */
const kept = (value: unknown): boolean => (value as { decision?: unknown } | null)?.decision === 'keep';

const checkPlan = object({
  format: oneOf(1),
  model: object({ sha256: text, path: text }),
  recipe: (value, at) => checkRecipe(value, at),
  inputs: listOf(
    object({
      id: text,
      value: text,
      channels: count,
      decision: oneOf('fuse-norm', 'fuse-gate', 'fuse-act', 'fuse-attention', 'quantize', 'float'),
      'producer?': text,
      format: oneOf(...activationFormats, 'none'),
      groupSize: count,
      clip: ratio,
      'threshold?': positive,
      outlierChannels: count,
      reorder: oneOf('none', 'gather', 'fold', 'fold-heads'),
      'order?': text,
      'energy?': text,
      'smooth?': text,
      'residual?': flag,
      'floatOutput?': flag,
      sites: listOf(text),
      notes: listOf(text),
    }),
  ),
  sites: listOf((value, at) => (kept(value) ? keptSite : quantizedSite)(value, at)),
  'budget?': object({
    budget: amount,
    predicted: amount,
    'cacheLoss?': amount,
    groups: listOf(object({ sites: listOf(text), weights: count, loss: amount, 'lossAt8Bits?': amount })),
  }),
  'caches?': listOf((value, at) => (kept(value) ? keptCache : quantizedCache)(value, at)),
  predicted: object({
    linearBytes: count,
    outputBytes: count,
    'rounding?': object({ passes: count, hessianBytes: count, productBytes: count }),
  }),
});

/**
 * Checks a value that should be a plan: its keys, and that entries fit together.
 * @throws usage error that names the key
 */
export function parsePlan(value: unknown, at: string): Plan {
  checkPlan(value, at);
  const plan = value as Plan;
  const inputs = new Map(plan.inputs.map((input) => [input.id, input]));
  for (const input of plan.inputs) {
    const where = `${at}: input "${input.id}"`;
    checkOrder(input.order, input.channels, where);
    checkFactors(input.smooth, input.channels, where);
    if (input.energy !== undefined && decodeFactors(input.energy).length !== input.channels)
      throw usageError(where, `its energy is not one number for each of ${input.channels} channels`);
    if (input.smooth && input.decision === 'float')
      throw usageError(where, 'has smoothing factors and decision "float", expected one of both');
  }
  for (const site of plan.sites) {
    if (site.decision === 'keep') continue;
    const where = `${at}: site "${site.site}"`;
    const input = inputs.get(site.input);
    if (!input) throw usageError(where, `input "${site.input}" is not in the plan`);
    if (!input.sites.includes(site.site)) throw usageError(where, `input "${site.input}" does not list it`);
    if (input.channels !== site.K) throw usageError(where, `has K ${site.K}, its input ${input.channels} channels`);
    checkOrder(site.rowOrder, site.N, where);
    checkFactors(site.rowSmooth, site.N, where);
    const body = site.K - site.weight.outlierChannels;
    for (const group of [site.weight.groupSize, input.groupSize])
      if (group > 0 && (group % 16 !== 0 || body % group !== 0))
        throw usageError(where, `group size is ${group}, expected 0 or a multiple of 16 that divides ${body}`);
    checkCodes(site.weight, input, where);
  }
  const forms = new Set(plan.caches?.map((cache) => (cache.decision === 'quantize' ? cache.form : undefined)));
  if (forms.has('growing') && forms.has('in_place'))
    throw usageError(`${at}: caches`, 'some are "growing" and some "in_place", expected one form for all');
  return plan;
}

/** Whether the codes of a layer's weights go with those of its input. */
function checkCodes(weight: PlanWeight, input: PlanInput, at: string): void {
  if (weight.outlierChannels !== input.outlierChannels)
    throw usageError(at, `has ${weight.outlierChannels} outlier channels, its input ${input.outlierChannels}`);
  if (weight.groupSize > 0 && input.groupSize > 0 && weight.groupSize !== input.groupSize)
    throw usageError(
      at,
      `has groups of ${weight.groupSize}, its input of ${input.groupSize}, expected equal ones or 0`,
    );
  const floats = input.format === 'none' || Boolean(input.threshold);
  if (floats !== (input.decision === 'float') || (floats && input.groupSize + input.outlierChannels > 0))
    throw usageError(
      at,
      `its input has decision "${input.decision}", format "${input.format}", groups of ${input.groupSize} and ${input.outlierChannels} outlier channels, expected "float" with "none" or a threshold and 0, or codes`,
    );
}

function checkOrder(order: string | undefined, length: number, at: string): void {
  if (order === undefined) return;
  const seen = new Uint8Array(length);
  const channels = decodeOrder(order);
  for (const channel of channels) if (channel >= 0 && channel < length) seen[channel] = 1;
  if (channels.length !== length || seen.includes(0))
    throw usageError(at, `its order is not a permutation of ${length} channels`);
}

function checkFactors(text: string | undefined, length: number, at: string): void {
  if (text === undefined) return;
  const factors = decodeFactors(text);
  if (factors.length !== length || !factors.every((factor) => factor > 0 && factor < Infinity))
    throw usageError(at, `its smoothing factors are not ${length} positive numbers`);
}

/** Reads and checks a plan file. */
export function readPlan(path: string): Plan {
  return parsePlan(readJson(path, 'a plan'), path);
}
