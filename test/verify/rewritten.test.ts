import { deepEqual, equal, ok } from 'node:assert/strict';
import { join } from 'node:path';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { tokenFeeds } from '../../graph-rewrite/calibrate/index.js';
import { applyPlan, findRecipe, loadModel, makePlan, saveModel, withSettings } from '../../graph-rewrite/index.js';
import { compareModels } from '../../graph-rewrite/verify/index.js';
import { temporaryFolder, zooFolder } from '../helpers/files.js';
import { Random } from '../helpers/random.js';
import { createSession } from '../helpers/session.js';
import { randomStats } from '../helpers/stats.js';

describe('comparing a model with its rewritten form', () => {
  const folder = temporaryFolder();
  const orders = ['outliers.channels=16', 'merge.qkv=true', 'merge.gateUp=true'];

  // A layer whose channels are matched wrongly has about 0 dB; 8-bit codes leave 30 and more, of random smoothing 20 and more.
  for (const name of ['llama_nocache_dynamo18', 'llama_kv_ts14', 'gpt2_kv_ts17', 'opt_kv_dynamo18', 'bert_ts17']) {
    for (const settings of [[], orders, [...orders, 'oReorder=head'], ['smooth.at=all', ...orders]]) {
      it(`finds every layer of ${name} with ${settings.join(' ') || 'natural orders'}`, async () => {
        const input = join(zooFolder, `${name}.onnx`);
        const model = loadModel(input);
        const analysis = analyze(model);
        const plan = makePlan(analysis, randomStats(analysis), withSettings(findRecipe('w8a8'), settings), model);
        applyPlan(model, plan, analysis);
        await saveModel(model, folder.path('out.onnx'));
        const reference = loadModel(input);
        const random = new Random(name);
        const ids = Int32Array.from({ length: 32 }, () => Math.floor(random.next() * 256));
        const feeds = tokenFeeds(reference, ids, { length: 16, at: 'ids' });
        const rewritten = loadModel(folder.path('out.onnx'));
        const { layers, sqnrDb } = await compareModels({ reference, rewritten, feeds, createSession });
        const expected = plan.sites.filter((site) => site.decision === 'quantize').map((site) => site.site);
        deepEqual(layers.map(({ site }) => site).sort(), expected.sort());
        const least = settings[0] === 'smooth.at=all' ? 20 : 30;
        const most = 10 ** (-least / 10);
        for (const { site, sqnrDb: db, weightError, activationError } of layers) {
          ok(db > least, `${site}: ${db} dB`);
          ok(weightError! > 0 && activationError! > 0, site);
          ok(weightError! < most && activationError! < most, `${site}: ${weightError} and ${activationError}`);
        }
        ok(sqnrDb > least, `${sqnrDb} dB`);
      });
    }
  }

  /** Errors of each layer of a model rewritten by a recipe. */
  async function sourcesUnder(recipe: string, settings: readonly string[]) {
    const input = join(zooFolder, 'llama_nocache_dynamo18.onnx');
    const model = loadModel(input);
    const analysis = analyze(model);
    const all = ['weight.rounding=rtn', ...settings];
    applyPlan(model, makePlan(analysis, randomStats(analysis), withSettings(findRecipe(recipe), all), model), analysis);
    await saveModel(model, folder.path('sources.onnx'), { force: true });
    const reference = loadModel(input);
    const ids = Int32Array.from({ length: 32 }, (_, i) => (i * 37) % 256);
    const feeds = tokenFeeds(reference, ids, { length: 16, at: 'ids' });
    const rewritten = loadModel(folder.path('sources.onnx'));
    return (await compareModels({ reference, rewritten, feeds, createSession })).layers;
  }

  it('tells errors of weights from errors of activations', async () => {
    for (const layer of await sourcesUnder('w4a16', [])) {
      ok(layer.weightError! > 1e-4 && layer.weightError! < 0.1, `${layer.weightError}`);
      equal(layer.activationError, 0);
      equal(layer.outlierShare, undefined);
    }
    for (const { weightError, activationError } of await sourcesUnder('w8a8', ['activation.format=s4']))
      ok(activationError! > 20 * weightError!, `${activationError} and ${weightError}`);
    for (const { weightError, activationError } of await sourcesUnder('w8a8', ['weight.format=s4']))
      ok(weightError! > 20 * activationError!, `${activationError} and ${weightError}`);
  });

  it('the errors of the first layer are its own: they add up to its SQNR', async () => {
    for (const settings of [[], ['activation.format=s4_e4m3']]) {
      const [first] = await sourcesUnder('w4a4', settings);
      const { weightError, activationError, sqnrDb } = first!;
      const own = 10 * Math.log10(weightError! + activationError!);
      ok(Math.abs(own + sqnrDb) < 1.5, `${own} dB, in the model ${-sqnrDb} dB`);
    }
  });

  it('knows columns that stay floats', async () => {
    const layers = await sourcesUnder('llm-int8', ['activation.threshold=1']);
    ok(layers.some(({ outlierShare }) => outlierShare! > 0));
    for (const { activationError, site } of layers) ok(activationError! < 1e-3, site);
  });
});
