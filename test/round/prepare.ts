/** A small decoder with a plan, and all that rounding it takes. */
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { findRecipe, loadModel, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { loadNative } from '../../native/js/load.js';
import { createSession } from '../helpers/session.js';
import { randomStats } from '../helpers/stats.js';
import { zooFeeds, zooPath } from '../helpers/zoo.js';

export const native = loadNative().addon;
export const path = zooPath('llama_kv_dynamo18');

/** @returns the model and its plan under a recipe, and options of `roundWeights` */
export function prepare(recipe: string, ...settings: string[]) {
  const model = loadModel(path);
  const analysis = analyze(model);
  const plan = makePlan(analysis, randomStats(analysis), withSettings(findRecipe(recipe), settings), model);
  const feeds = [1, 2].map((batch) => zooFeeds(model, { batch, tokens: 60 }));
  const options = { createSession, native, threads: 1, load: () => loadModel(path) };
  return { model, analysis, plan, feeds, ...options };
}
