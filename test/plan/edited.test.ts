/** Plans that people edited: what no longer holds together is refused, what does runs. */
import { ok, rejects, throws } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { findRecipe, loadModel, makePlan, rewrite, withSettings, type Plan } from '../../graph-rewrite/index.js';
import { parsePlan } from '../../graph-rewrite/plan/index.js';
import { temporaryFolder } from '../helpers/files.js';
import { createSession } from '../helpers/session.js';
import { randomStats } from '../helpers/stats.js';
import { sqnr, zooFeeds, zooPath } from '../helpers/zoo.js';

// eslint-disable-next-line @typescript-eslint/no-explicit-any -- a plan as an editor sees it
type Entries = any;
type Edit = (plan: Entries) => void;

const of = (plan: Entries, role: string): Entries =>
  plan.sites.find((site: Entries) => site.role === role && site.layer === 0);
const inputOf = (plan: Entries, role: string): Entries =>
  plan.inputs.find((input: Entries) => input.id === of(plan, role).input);

/** Makes a layer's entry one that stays float. */
function keep(plan: Entries, role: string): void {
  const { site, role: name, layer, K, N } = of(plan, role);
  const entry = { site, role: name, layer, K, N, decision: 'keep', reason: 'edited', expected: true };
  plan.sites.splice(plan.sites.indexOf(of(plan, role)), 1, entry);
}

describe('plan: edited', () => {
  const folder = temporaryFolder();
  const recipes = {
    atom: withSettings(findRecipe('atom-w4a4kv4'), ['weight.rounding=rtn']),
    smooth: withSettings(findRecipe('smoothquant-w8a8'), ['smooth.at=all']),
    heads: withSettings(findRecipe('w8a8'), ['outliers.channels=16', 'oReorder=head']),
  };

  function edited(name: string, recipe: keyof typeof recipes, edit: Edit): unknown {
    const model = loadModel(zooPath(name));
    const analysis = analyze(model);
    const plan: unknown = JSON.parse(JSON.stringify(makePlan(analysis, randomStats(analysis), recipes[recipe], model)));
    edit(plan);
    return plan;
  }
  const carriedOut = (name: string, plan: Plan) =>
    rewrite({ input: zooPath(name), output: folder.path('out.onnx'), recipe: plan.recipe, plan, force: true });

  const apart: readonly [string, keyof typeof recipes, string, Edit, RegExp][] = [
    [
      'a gate kept',
      'atom',
      'llama_kv_ts17',
      (plan) => keep(plan, 'gate_proj'),
      /its order is folded into the rows of ".*gate_proj/,
    ],
    ['a reader kept', 'atom', 'llama_kv_ts17', (plan) => keep(plan, 'down_proj'), /no layer reads it/],
    ['what attention quantizes for kept', 'atom', 'llama_kv_ts17', (plan) => keep(plan, 'o_proj'), /no layer reads it/],
    ['values kept', 'heads', 'gpt2_kv_ts17', (plan) => keep(plan, 'qkv_proj'), /no layer reads it|its order is folded/],
    ['a smoothed layer kept', 'smooth', 'opt_kv_ts17', (plan) => keep(plan, 'q_proj'), /its channels are divided, and/],
    [
      'an order taken out',
      'atom',
      'llama_kv_ts17',
      (plan) => delete of(plan, 'up_proj').rowOrder,
      /has no rowOrder for it/,
    ],
    [
      'an input taken out',
      'atom',
      'llama_kv_ts17',
      (plan) => {
        plan.inputs.splice(plan.inputs.indexOf(inputOf(plan, 'down_proj')), 1);
        keep(plan, 'down_proj');
      },
      /its rows are changed for an input that does not say so/,
    ],
    [
      'an operator that is not there',
      'atom',
      'llama_kv_ts17',
      (plan) => (inputOf(plan, 'o_proj').decision = 'fuse-act'),
      /^LowbitError: plan: does not hold together: fuse-act: .*Undo what was edited/,
    ],
  ];
  for (const [what, recipe, name, edit, message] of apart)
    it(`${what} is refused`, () =>
      rejects(carriedOut(name, parsePlan(edited(name, recipe, edit), 'plan')), (error: Error & { code?: string }) => {
        ok(error.code === 'usage' && message.test(String(error)), String(error));
        return true;
      }));

  const unreadable: readonly [string, Edit, RegExp][] = [
    [
      'other outlier channels',
      (plan) => (inputOf(plan, 'q_proj').outlierChannels = 0),
      /has 16 outlier channels, its input 0/,
    ],
    ['other groups', (plan) => (inputOf(plan, 'q_proj').groupSize = 16), /has groups of 48, its input of 16/],
    [
      'floats with codes',
      (plan) => (inputOf(plan, 'q_proj').format = 'none'),
      /its input has decision "fuse-norm", format "none"/,
    ],
    ['caches of two forms', (plan) => (plan.caches[0].form = 'in_place'), /some are "growing" and some "in_place"/],
  ];
  for (const [what, edit, message] of unreadable)
    it(`${what}: refused when it is read`, () =>
      throws(() => parsePlan(edited('llama_kv_ts17', 'atom', edit), 'plan'), message));

  it('a layer kept with all that goes with it: the model runs', async () => {
    const name = 'llama_kv_ts17';
    const plan = edited(name, 'heads', (entries) => {
      entries.inputs.splice(entries.inputs.indexOf(inputOf(entries, 'down_proj')), 1);
      keep(entries, 'down_proj');
      for (const role of ['gate_proj', 'up_proj']) delete of(entries, role).rowOrder;
      inputOf(entries, 'q_proj').sites.shift();
      keep(entries, 'q_proj');
    });
    await carriedOut(name, parsePlan(plan, 'plan'));
    const feeds = zooFeeds(loadModel(zooPath(name)), { past: 0 });
    const logits = async (path: string) => {
      const session = await createSession(path);
      const { data } = (await session.run(feeds, ['logits']))['logits'] as { data: Float32Array };
      await session.release();
      return data;
    };
    const decibels = sqnr(await logits(zooPath(name)), await logits(folder.path('out.onnx')));
    ok(decibels >= 36, `${decibels} dB`);
  });
});
