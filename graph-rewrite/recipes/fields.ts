import { activationFormats, weightFormats } from '../../ops/formats/formats.js';
import { clipRange } from '../../ops/formats/quantize-segment.js';
import { defaultGptq, defaultKv, defaultLorc, type GptqSettings, type KvSettings } from './recipe.js';

/** One scalar setting of a recipe: where it lives, what it may be. The table below drives checks, `--set` and help. */
export interface Field {
  /** Dotted path inside the recipe. */
  readonly path: string;
  readonly about: string;
  readonly legal: string;
  /** Whether a JSON value is allowed here. */
  readonly allows: (value: unknown) => boolean;
  /** Its value where a recipe leaves it out; without one, a recipe must give it. */
  readonly fallback?: unknown;
}

function oneOf(path: string, about: string, ...values: readonly (string | number | boolean)[]): Field {
  return { path, about, legal: values.join(' | '), allows: (value) => values.some((each) => each === value) };
}

function multipleOf16(path: string, about: string): Field {
  return {
    path,
    about,
    legal: '0 or a multiple of 16',
    allows: (value) => typeof value === 'number' && Number.isInteger(value) && value >= 0 && value % 16 === 0,
  };
}

function integer(path: string, about: string, min: number, max: number): Field {
  return {
    path,
    about,
    legal: `a whole number from ${min} to ${max}`,
    allows: (value) => Number.isInteger(value) && (value as number) >= min && (value as number) <= max,
  };
}

function ratio(path: string, about: string): Field {
  return {
    path,
    about,
    legal: 'a number from 0.01 to 1',
    allows: (value) => typeof value === 'number' && value >= clipRange.min && value <= clipRange.max,
  };
}

function between(path: string, about: string, min: number, max: number): Field {
  return {
    path,
    about,
    legal: `a number from ${min} to ${max}`,
    allows: (value) => typeof value === 'number' && value >= min && value <= max,
  };
}

/** A GPTQ setting: recipes may leave it out. */
function gptq(key: keyof GptqSettings, field: (path: string) => Field): Field {
  return { ...field(`gptq.${key}`), fallback: defaultGptq[key] };
}

/** A cache setting: likewise. */
function kv(key: keyof KvSettings, field: (path: string) => Field): Field {
  return { ...field(`kv.${key}`), fallback: defaultKv[key] };
}

/** Settings that an override may change for some layers. */
export const siteFields: readonly Field[] = [
  oneOf('weight.format', 'weight codes', ...weightFormats),
  multipleOf16('weight.groupSize', 'input channels per weight scale, 0 = per output channel'),
  ratio('weight.clip', 'share of the absolute maximum that weight codes reach'),
  {
    ...oneOf('weight.clipSearch', 'clip ratio searched for each group instead', 'none', 'mse', 'hessian'),
    fallback: 'none',
  },
  oneOf('weight.channelGroup', 'adjacent output rows that share a scale', 1, 2),
  {
    ...oneOf('weight.scaleConstraint', 'powers of two among the group scales of a row', 'none', 'm1', 'm2'),
    fallback: 'none',
  },
  { ...oneOf('weight.scaleRound', 'rounding of their exponents', 'ceil', 'floor', 'best'), fallback: 'best' },
  oneOf('weight.rounding', 'how weights are rounded', 'rtn', 'gptq'),
  oneOf('activation.format', 'activation codes, none = float', ...activationFormats, 'none'),
  multipleOf16('activation.groupSize', 'channels per activation scale, 0 = per token'),
  ratio('activation.clip', 'share of the absolute maximum that activation codes reach'),
  {
    ...between('activation.threshold', 'channels that reach it at run time stay float (LLM.int8()), 0 = none', 0, 1e6),
    fallback: 0,
  },
  multipleOf16('outliers.channels', 'input channels kept in 8 bits, last after sorting'),
  oneOf('outliers.rankBy', 'statistic that ranks channels', 'mean-square', 'abs-mean', 'abs-max'),
  oneOf('outliers.order', 'order of the sorted channels', 'ascending', 'range-clusters'),
  {
    path: 'smooth.alpha',
    about: 'share of the difficulty that moves from activations to weights (SmoothQuant)',
    legal: 'a number from 0 to 1 | search',
    allows: (value) => value === 'search' || (typeof value === 'number' && value >= 0 && value <= 1),
    fallback: 'none',
  },
  {
    ...oneOf('smooth.at', 'inputs from norms, or those of o_proj and down_proj too', 'norms', 'all'),
    fallback: 'none',
  },
  {
    ...integer('lorc.rank', 'rank of a term that takes rounding errors back, 0 = none', 0, 256),
    fallback: defaultLorc.rank,
  },
  { ...oneOf('lorc.bits', 'of a value of its factors', 8, 16), fallback: defaultLorc.bits },
];

/** Every scalar setting of a recipe. */
export const fields: readonly Field[] = [
  ...siteFields,
  oneOf('oReorder', 'channel order in front of o_proj', 'global', 'head', 'none'),
  oneOf('merge.qkv', 'one GEMM for q, k and v', true, false, 'auto'),
  oneOf('merge.gateUp', 'one GEMM for gate and up', true, false),
  kv('bits', (path) => oneOf(path, 'of the key and value cache, 0 = as it is', 0, 4, 8)),
  kv('rope', (path) => oneOf(path, 'cached keys are those before or after RoPE', 'pre', 'post')),
  kv('clip', (path) => ratio(path, 'share of the range of keys and values that cache codes span')),
  kv('form', (path) => oneOf(path, 'the cache grows, or stays in buffers of a fixed capacity', 'growing', 'in_place')),
  gptq('percdamp', (path) => between(path, "damping, as a share of the Hessian's mean diagonal", 0, 1)),
  gptq('order', (path) =>
    oneOf(path, 'channels in stored order, or the body from its last to its first', 'atom', 'body_desc'),
  ),
  gptq('scale', (path) => oneOf(path, 'scale of a group from its absolute maximum', 'max/7', 'max/7.5')),
  gptq('hessian', (path) =>
    oneOf(path, 'inputs of the float model, or of the model quantized so far', 'float', 'sequential'),
  ),
  gptq('memory', (path) => between(path, 'MiB for Hessians', 1, 2 ** 20)),
];

/** All settings and their legal values, one a line, for error messages and help. */
export function listFields(): string {
  const width = Math.max(...fields.map((field) => field.path.length));
  return fields.map((field) => `  ${field.path.padEnd(width)}  ${field.legal}`).join('\n');
}
