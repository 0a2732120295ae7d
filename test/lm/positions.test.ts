import { equal, rejects, throws } from 'node:assert/strict';
import { calibrate, tokenFeeds } from '../../graph-rewrite/calibrate/index.js';
import { analyze, loadModel, perplexity, textFacts } from '../../graph-rewrite/index.js';
import { Graph } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';
import { createSession } from '../helpers/session.js';
import { zooNames, zooPath } from '../helpers/zoo.js';

/** Rows of the position tables, by family; OPT's has two more that are no positions. */
const rows: Readonly<Record<string, number | undefined>> = { bert: 512, gpt2: 128, opt: 128 };

describe('position tables', () => {
  for (const name of zooNames)
    it(`${name}: found however positions are made`, () => {
      equal(textFacts(loadModel(zooPath(name))).positions, rows[name.split('_')[0]!]);
    });

  it('found in the branches of an If too', () => {
    const g = new TestGraph();
    const positions = g.input('position_ids', ['batch', 'tokens'], 'int64');
    const branch = (name: string, count: number) => {
      const inner = new TestGraph(18, new Graph(g.model, name, g.graph));
      inner.output(inner.op('Gather', [inner.weight(`${name} table`, [count, 8]), positions]), ['batch', 'tokens', 8]);
      return { type: 'graph', value: inner.graph } as const;
    };
    const attributes = { then_branch: branch('then', 48), else_branch: branch('else', 40) };
    g.output(g.op('If', [g.input('flag', [1], 'bool')], { attributes }));
    equal(textFacts(g.model).positions, 40);
  });

  const ids = Int32Array.from({ length: 600 }, (_, i) => (i * 37) % 256);
  for (const name of ['gpt2_nocache_dynamo18', 'opt_kv_ts17']) {
    it(`${name}: windows are as long as the table unless a length is given, which may not be longer`, async () => {
      const model = loadModel(zooPath(name));
      const feeds = tokenFeeds(model, ids, { at: 'ids' });
      equal(feeds.count, 4);
      await calibrate({ model, analysis: analyze(model), feeds, createSession });
      const tooLong = /^LowbitError: length: is 129, expected at most 128, the rows of the model's position table/;
      throws(() => tokenFeeds(model, ids, { at: 'ids', length: 129 }), tooLong);
      const session = await createSession(zooPath(name));
      const facts = textFacts(model);
      equal((await perplexity(session, ids, { facts })).tokens, 512);
      await rejects(perplexity(session, ids, { facts, length: 129 }), tooLong);
      await session.release();
    });
  }
});
