import { ok } from 'node:assert/strict';
import { join } from 'node:path';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { calibrate, tokenFeeds } from '../../graph-rewrite/calibrate/index.js';
import { findRecipe, loadModel, makePlan, roundWeights } from '../../graph-rewrite/index.js';
import { readTokens } from '../../graph-rewrite/lm/index.js';
import { loadNative } from '../../native/js/load.js';
import { bookwormFolder, materializeBookworm } from '../../models/bookworm.js';
import { temporaryFolder } from '../helpers/files.js';
import { createOrtSession } from '../helpers/ort.js';

describe('GPTQ on a trained model', () => {
  const folder = temporaryFolder();

  it('loses less than round to nearest in every layer', async () => {
    const path = await materializeBookworm('dynamo', folder.path());
    const model = loadModel(path);
    const analysis = analyze(model);
    const at = join(bookwormFolder, 'eval-tokens.npy');
    const feeds = tokenFeeds(model, readTokens(at), { length: 128, count: 6, at });
    const stats = await calibrate({ model, analysis, feeds, createSession: createOrtSession });
    const plan = makePlan(analysis, stats, findRecipe('atom-w4a4'), model);
    const { layers } = await roundWeights({
      ...{ load: () => loadModel(path), analysis, plan, feeds, createSession: createOrtSession },
      ...{ native: loadNative().addon, folder: folder.path('work'), threads: 1 },
    });
    // Six blocks: q, k, v (apart or together), o, gate and up together, down.
    ok(layers.length >= 24, `${layers.length} products`);
    for (const { name, gptq } of layers) ok(gptq!.loss < 0.95 * gptq!.nearestLoss, `${name}: ${JSON.stringify(gptq)}`);
  });
});
