import { deepEqual, equal, ok, rejects } from 'node:assert/strict';
import { tokenFeeds } from '../../graph-rewrite/calibrate/index.js';
import {
  findRecipe,
  keepWithinBudget,
  loadModel,
  withSettings,
  type CreateSession,
  type MeasureOptions,
} from '../../graph-rewrite/index.js';
import { readFloats, tensorOf } from '../../graph-rewrite/ir/tensor.js';
import { createSession } from '../helpers/session.js';
import { zooPath } from '../helpers/zoo.js';

describe('keepWithinBudget', () => {
  const load = (): ReturnType<typeof loadModel> => loadModel(zooPath('llama_nocache_dynamo18'));
  const recipe = withSettings(findRecipe('w4a4'), []);
  const ids = Int32Array.from({ length: 64 }, (_, i) => (i * 37) % 256);
  const feeds = tokenFeeds(load(), ids, { length: 16, count: 3, at: 'ids' });
  const options: MeasureOptions = { load, stats: undefined, feeds, createSession };

  it('opens the float model once and runs it once on every feed; every session is closed', async () => {
    const runs: number[] = [];
    let open = 0;
    const counting: CreateSession = async (...args) => {
      const session = await createSession(...args);
      const index = runs.push(0) - 1;
      open++;
      return Object.assign(Object.create(session) as typeof session, {
        run: async (...words: Parameters<typeof session.run>) => (runs[index]!++, session.run(...words)),
        release: async () => (open--, session.release()),
      });
    };
    const { report } = await keepWithinBudget(recipe, 1e9, { ...options, createSession: counting });
    deepEqual(
      runs,
      [undefined, ...report.groups].map(() => 3),
    );
    equal(open, 0);
  });

  it('does not take a loss that is not a number for a small one', async () => {
    const broken = (): ReturnType<typeof loadModel> => {
      const model = load();
      const embedding = model.graph.nodes.find(({ opType }) => opType === 'Gather')!.input(0)!;
      const { dims } = embedding.initializer!;
      embedding.initializer = tensorOf(readFloats(embedding.initializer!).fill(NaN), dims);
      return model;
    };
    await rejects(keepWithinBudget(recipe, 1e9, { ...options, load: broken }), /the predicted loss is NaN/);
  });

  it('moves groups to 8 bits, the worst first, until the sum is within the budget and no further', async () => {
    const plain = (await keepWithinBudget(recipe, 1e9, options)).report;
    const worst = [...plain.groups].sort((a, b) => b.loss - a.loss)[0]!;
    // The whole loss is within itself; a little less takes one group.
    deepEqual((await keepWithinBudget(recipe, plain.predicted, options)).report.groups, plain.groups);
    const { report, recipe: kept } = await keepWithinBudget(recipe, plain.predicted * 0.999, options);
    const moved = report.groups.filter(({ lossAt8Bits }) => lossAt8Bits !== undefined);
    deepEqual(
      moved.map(({ sites }) => sites),
      [worst.sites],
    );
    const settings = kept.overrides.slice(0, worst.sites.length).map(({ match, set }) => [match.name, set]);
    for (const [i, [name, set]] of settings.entries()) {
      equal(name, worst.sites[i]);
      equal((set as { weight: { format: string } }).weight.format, 's8');
      equal((set as { activation: { format: string } }).activation.format, 's8');
    }
  });

  for (const form of ['growing', 'in_place'])
    it(`counts what a cache in 4 bits loses, ${form}`, async () => {
      const cached = (): ReturnType<typeof loadModel> => loadModel(zooPath('llama_kv_ts17'));
      const measured = {
        ...options,
        load: cached,
        feeds: tokenFeeds(cached(), ids, { length: 16, count: 3, at: 'ids' }),
      };
      const plain = (await keepWithinBudget(recipe, 1e9, measured)).report;
      equal(plain.cacheLoss, undefined);
      const settings = ['kv.bits=4', `kv.form=${form}`];
      const { report } = await keepWithinBudget(withSettings(recipe, settings), 1e9, measured);
      ok(report.cacheLoss! > 1e-5, String(report.cacheLoss));
      ok(Math.abs(report.predicted - plain.predicted - report.cacheLoss!) < 1e-9);
      deepEqual(report.groups, plain.groups);
      const alone = (await keepWithinBudget(withSettings(findRecipe('kv4'), settings), 1e9, measured)).report;
      deepEqual(alone, { budget: 1e9, predicted: report.cacheLoss, cacheLoss: report.cacheLoss, groups: [] });
      await rejects(
        keepWithinBudget(withSettings(recipe, settings), report.cacheLoss! / 2, measured),
        /at 8 bits the predicted loss is [\d.e-]+, [\d.e-]+ of it the cache's/,
      );
    });

  it('refuses budgets that are none', async () => {
    for (const budget of [0, -1, NaN, Infinity])
      await rejects(keepWithinBudget(recipe, budget, options), /budget: is .*, expected a number above 0/);
  });

  it('says so when there is nothing to measure on', async () => {
    await rejects(keepWithinBudget(recipe, 1, { ...options, feeds: [] }), /there are no samples/);
  });
});
