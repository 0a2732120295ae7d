import { deepEqual, equal, match, ok, throws } from 'node:assert/strict';
import { mkdtempSync, rmSync, writeFileSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { LowbitError } from '../../ops/common/errors.js';
import {
  checkRecipe,
  findRecipe,
  kvSettings,
  matchesGlob,
  needsCalibration,
  needsSamples,
  recipes,
  resolveSite,
  withSettings,
} from '../../graph-rewrite/recipes/index.js';
import type { Recipe, SiteSettings } from '../../graph-rewrite/recipes/index.js';

const atom = findRecipe('atom-w4a4');
const site = { name: '/model/layers.3/mlp/down_proj/MatMul', role: 'down_proj', layer: 3 };

function usage(pattern: RegExp) {
  return (error: unknown) => {
    ok(error instanceof LowbitError);
    equal(error.code, 'usage');
    match(error.message, pattern);
    return true;
  };
}

describe('recipes', () => {
  it('are the named ones, each its own JSON', () => {
    deepEqual(
      recipes.map((recipe) => recipe.name),
      [
        'atom-w4a4',
        'atom-w4a4kv4',
        'w4a4-g128',
        'w4a4',
        'w8a8',
        'smoothquant-w8a8',
        'llm-int8',
        'rptq-w4a8',
        'zeroquant-w8a8',
        'zeroquant-w4a8',
        'w4a16',
        'kv4',
        'zeroquant-fp-w4a8',
        'zeroquant-fp-w8a8',
      ],
    );
    for (const recipe of recipes) {
      const copy: unknown = JSON.parse(JSON.stringify(recipe));
      checkRecipe(copy);
      deepEqual(copy, recipe);
    }
  });

  it('give atom-w4a4 the numbers of the paper', () => {
    deepEqual(atom.weight, { format: 's4', groupSize: 128, clip: 0.85, channelGroup: 2, rounding: 'gptq' });
    deepEqual(atom.activation, { format: 's4', groupSize: 128, clip: 0.9 });
    deepEqual(atom.outliers, { channels: 128, rankBy: 'mean-square', order: 'ascending' });
    equal(atom.oReorder, 'global');
  });

  it('constrain the scales of weights, and refuse other words', () => {
    const m2 = withSettings(findRecipe('zeroquant-fp-w4a8'), ['weight.scaleConstraint=m2', 'weight.scaleRound=floor']);
    equal(m2.weight.scaleConstraint, 'm2');
    equal(m2.weight.scaleRound, 'floor');
    throws(() => withSettings(m2, ['weight.scaleConstraint=m3']), /expected none \| m1 \| m2/);
    equal(withSettings(atom, ['weight.scaleConstraint=m2']).weight.scaleConstraint, 'm2');
  });

  it('need calibration only where channels are sorted or smoothed, or weights rounded by GPTQ', () => {
    deepEqual(
      recipes.filter(needsCalibration).map(({ name }) => name),
      ['atom-w4a4', 'atom-w4a4kv4', 'smoothquant-w8a8', 'rptq-w4a8', 'zeroquant-fp-w4a8', 'zeroquant-fp-w8a8'],
    );
    ok(needsCalibration(withSettings(findRecipe('w8a8'), ['outliers.channels=16'])));
    ok(needsCalibration(withSettings(findRecipe('w4a16'), ['weight.rounding=gptq'])));
  });

  it('leave the cache alone unless asked, each setting on its own', () => {
    equal(kvSettings(atom).bits, 0);
    deepEqual(kvSettings(findRecipe('atom-w4a4kv4')), { bits: 4, rope: 'pre', clip: 1, form: 'growing' });
    deepEqual(kvSettings(withSettings(atom, ['kv.bits=8', 'kv.rope=post'])), {
      bits: 8,
      rope: 'post',
      clip: 1,
      form: 'growing',
    });
    throws(() => withSettings(atom, ['kv.bits=5']), usage(/value is 5, expected 0 \| 4 \| 8/));
  });

  it('refuse an unknown name and list the legal ones', () => {
    throws(
      () => findRecipe('atom'),
      usage(/unknown recipe "atom".*atom-w4a4, atom-w4a4kv4, w4a4-g128, w4a4, w8a8, .*w4a16, kv4/),
    );
  });

  it('are read from a JSON file, which is checked by name', () => {
    const folder = mkdtempSync(join(tmpdir(), 'recipe-'));
    try {
      const path = join(folder, 'mine.json');
      writeFileSync(path, JSON.stringify({ ...atom, name: 'mine' }));
      equal(findRecipe(path).name, 'mine');
      writeFileSync(path, JSON.stringify({ ...atom, name: 'mine', weights: {} }));
      throws(() => findRecipe(path), usage(/recipe "mine": unknown key "weights", expected one of .*weight/));
      writeFileSync(path, '{');
      throws(() => findRecipe(path), /is not JSON/);
      throws(() => findRecipe(join(folder, 'absent.json')), /cannot be read/);
    } finally {
      rmSync(folder, { recursive: true });
    }
  });
});

describe('recipe checks', () => {
  const cases: readonly [string, object, RegExp][] = [
    ['a missing key', { merge: { qkv: true } }, /merge\.gateUp is missing/],
    [
      'a wrong type',
      { weight: { ...atom.weight, groupSize: '128' } },
      /weight\.groupSize is "128", expected 0 or a mul/,
    ],
    ['a group that is no multiple of 16', { weight: { ...atom.weight, groupSize: 100 } }, /weight\.groupSize is 100/],
    ['an unknown nested key', { weight: { ...atom.weight, bits: 4 } }, /unknown key "weight\.bits", expected one of/],
    ['unequal groups', { activation: { format: 's4', groupSize: 64, clip: 1 } }, /is 128 and .* is 64, expected equal/],
    ['outliers without codes', { activation: { format: 'none', groupSize: 0, clip: 1 } }, /activation\.format is none/],
    ['an empty match', { overrides: [{ match: {}, keep: 'x' }] }, /overrides\[0\]: match is {}/],
    [
      'keep and set together',
      { overrides: [{ match: { layer: 1 }, keep: 'x', set: {} }] },
      /exactly one of keep and set/,
    ],
    [
      'an override that breaks a rule',
      { overrides: [{ match: { layer: 1 }, set: { weight: { groupSize: 64 } } }] },
      /overrides\[0\]: weight\.groupSize is 64/,
    ],
    ['another version', { version: 2 }, /version is 2, expected 1/],
  ];
  for (const [what, change, pattern] of cases) {
    it(`refuse ${what}`, () => throws(() => checkRecipe({ ...atom, ...change }), usage(pattern)));
  }
});

describe('--set', () => {
  it('changes dotted keys and leaves the recipe as it was', () => {
    const changed = withSettings(atom, ['weight.groupSize=64', 'activation.groupSize=64', 'merge.qkv=false']);
    equal(changed.weight.groupSize, 64);
    equal(changed.merge.qkv, false);
    equal(atom.weight.groupSize, 128);
  });

  it('takes outliers away and brings them back with defaults', () => {
    const without = withSettings(atom, ['outliers=none']);
    equal(without.outliers, null);
    deepEqual(withSettings(without, ['outliers.channels=64']).outliers, { ...atom.outliers, channels: 64 });
  });

  it('smooths any recipe, with the rest of the settings by default', () => {
    const smooth = withSettings(atom, ['smooth.at=all']);
    deepEqual(smooth.smooth, { alpha: 0.5, at: 'all' });
    ok(needsSamples(withSettings(smooth, ['smooth.alpha=search'])) && !needsSamples(smooth));
    equal(withSettings(smooth, ['smooth=none']).smooth, null);
    throws(() => withSettings(atom, ['smooth.alpha=1.5']), usage(/expected a number from 0 to 1 \| search/));
    throws(() => withSettings(findRecipe('w4a16'), ['smooth.alpha=0.5']), usage(/smooth is set and .*format is none/));
  });

  it('replaces overrides, here to quantize lm_head', () => {
    deepEqual(withSettings(atom, ['overrides=[]']).overrides, []);
    throws(() => withSettings(atom, ['overrides=lm_head']), usage(/overrides is not JSON/));
  });

  it('lists legal keys and values', () => {
    throws(
      () => withSettings(atom, ['weight.bits=4']),
      usage(/unknown key "weight\.bits".*Legal keys[^]*weight\.clip/),
    );
    throws(() => withSettings(atom, ['weight.clip=2']), usage(/value is 2, expected a number from 0.01 to 1/));
    throws(() => withSettings(atom, ['outliers.rankBy=max']), usage(/expected mean-square \| abs-mean \| abs-max/));
    throws(() => withSettings(atom, ['oReorder']), usage(/expected key=value/));
  });
});

describe('resolveSite', () => {
  const recipe: Recipe = {
    ...atom,
    overrides: [
      { match: { role: 'down_proj', layer: 3 }, set: { outliers: { channels: 256 }, weight: { clip: 1 } } },
      { match: { name: '*/mlp/*' }, keep: 'MLPs stay' },
    ],
  };

  it('applies the first match only', () => {
    deepEqual(resolveSite(recipe, site), {
      weight: { ...atom.weight, clip: 1 },
      activation: atom.activation,
      outliers: { ...atom.outliers, channels: 256 },
      smooth: null,
    });
    deepEqual(resolveSite(recipe, { ...site, layer: 4 }), { keep: 'MLPs stay' });
    deepEqual(resolveSite(atom, { name: 'lm_head', role: 'lm_head' }), { keep: atom.overrides[0]?.keep });
  });

  it('gives float activations no groups, whatever the recipe says of codes', () => {
    const floats = withSettings(atom, ['activation.format=none', 'outliers=none']);
    const { activation, weight } = resolveSite(floats, site) as SiteSettings;
    deepEqual([activation.format, activation.groupSize, weight.groupSize], ['none', 0, 128]);
  });

  it('matches names by * and ?, everything else literally', () => {
    ok(matchesGlob('*layers.?/mlp*', '/model/layers.3/mlp/down_proj'));
    ok(!matchesGlob('layers.3', 'layersx3'));
    ok(!matchesGlob('*/mlp', '/mlp/down_proj'));
  });
});
