import { deepEqual, ok } from 'node:assert/strict';
import { join } from 'node:path';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { tokenFeeds } from '../../graph-rewrite/calibrate/index.js';
import {
  applyPlan,
  findRecipe,
  loadModel,
  makePlan,
  saveModel,
  withSettings,
  type CreateSession,
} from '../../graph-rewrite/index.js';
import { compareModels } from '../../graph-rewrite/verify/index.js';
import { InferenceSession } from '../../native/js/index.js';
import { temporaryFolder, zooFolder } from '../helpers/files.js';
import { Random } from '../helpers/random.js';
import { randomStats } from '../helpers/stats.js';

const createSession: CreateSession = (model, options) => {
  const all = { intraOpNumThreads: 1, ...options };
  return typeof model === 'string' ? InferenceSession.create(model, all) : InferenceSession.create(model, all);
};

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
        for (const layer of layers) ok(layer.sqnrDb > least, `${layer.site}: ${layer.sqnrDb} dB`);
        ok(sqnrDb > least, `${sqnrDb} dB`);
      });
    }
  }
});
