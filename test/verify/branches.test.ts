/** Comparison of the layers in the branches of an If, as decoders have them whose two forms were merged. */
import { deepEqual, equal, ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { tokenFeeds } from '../../graph-rewrite/calibrate/index.js';
import { applyPlan, findRecipe, makePlan } from '../../graph-rewrite/index.js';
import { Graph, type Model } from '../../graph-rewrite/ir/index.js';
import { printGraph } from '../../graph-rewrite/ir/print.js';
import { compareModels } from '../../graph-rewrite/verify/index.js';
import { TestGraph } from '../helpers/graph.js';
import { createSession } from '../helpers/session.js';

const [K, vocabulary] = [64, 50];

/** Two layers and a head; layers in both branches, the head behind them. */
function merged(): Model {
  const g = new TestGraph();
  const ids = g.input('input_ids', ['batch', 'tokens'], 'int64');
  const flag = g.input('use_cache_branch', [1], 'bool');
  const x = g.op('Gather', [g.weight('embedding', [vocabulary, K], 1), ids]);
  const [gamma, first, second] = [g.weight('gamma', [K], 1), g.weight('w1', [K, K]), g.weight('w2', [K, K])];
  const branch = (name: string) => {
    const inner = new TestGraph(18, new Graph(g.model, name, g.graph));
    const y = inner.op('MatMul', [inner.rmsNorm(x, gamma), first], { name: `${name}/fc1` });
    const z = inner.op('MatMul', [inner.op('Relu', [y]), second], { name: `${name}/fc2` });
    inner.output(z, ['batch', 'tokens', K]);
    return { type: 'graph', value: inner.graph } as const;
  };
  const attributes = { then_branch: branch('then'), else_branch: branch('else') };
  const hidden = g.op('If', [flag], { attributes, name: 'optimum::if' });
  const logits = g.op('MatMul', [hidden, g.weight('head', [K, vocabulary])], { name: 'head', outputs: ['logits'] });
  g.output(logits, ['batch', 'tokens', vocabulary]);
  return g.model;
}

describe('compare: layers in the branches of an If', () => {
  it('are listed if their branch runs, with where their errors come from; the models stay as they were', async () => {
    const [reference, rewritten] = [merged(), merged()];
    const analysis = analyze(rewritten);
    applyPlan(rewritten, makePlan(analysis, undefined, findRecipe('w8a8'), rewritten), analysis);
    const before = [reference, rewritten].map(({ graph }) => printGraph(graph));
    const ids = Int32Array.from({ length: 96 }, (_, i) => (i * 7) % vocabulary);
    const feeds = tokenFeeds(reference, ids, { length: 16, at: 'ids' });
    const { layers, notRun } = await compareModels({ reference, rewritten, feeds, createSession });
    deepEqual(
      layers.map(({ site }) => site),
      ['else/fc1', 'else/fc2'],
    );
    equal(notRun, 2);
    for (const { site, sqnrDb, weightError, activationError } of layers) {
      ok(sqnrDb > 35 && sqnrDb < 60, `${site}: ${sqnrDb} dB`);
      ok(weightError! > 0 && weightError! < 1e-3 && activationError! > 0, site);
    }
    deepEqual(
      [reference, rewritten].map(({ graph }) => printGraph(graph)),
      before,
    );
    equal(reference.graph.outputs.length, 1);
  });
});
