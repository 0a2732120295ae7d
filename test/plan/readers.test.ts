/** Values that change inside a rewritten graph (their order, their factors, their place) while something else reads them. */
import { equal, match, ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, loadModel, makePlan, withSettings } from '../../graph-rewrite/index.js';
import type { Model, Value } from '../../graph-rewrite/ir/index.js';
import { randomStats } from '../helpers/stats.js';
import { zooPath } from '../helpers/zoo.js';

/** The zoo's GPT-2, whose layers flatten their rows, with one more output. */
function withOutput(find: (model: Model) => Value): Model {
  const model = loadModel(zooPath('gpt2_kv_ts17'));
  model.graph.addOutput(find(model));
  return model;
}

const layerOf = (model: Model, role: string) => analyze(model).linears.find((site) => site.role === role)!;

describe('plan: values that others read', () => {
  for (const [recipe, settings, note] of [
    ['w8a8', ['outliers.channels=16'], /"[^"]+" is also needed in float/],
    ['smoothquant-w8a8', ['smooth.at=all'], /not smoothed: "[^"]+" is also needed elsewhere/],
  ] as const)
    it(`${recipe}: rows that a layer flattens for itself stay as they are`, () => {
      const model = withOutput((each) => layerOf(each, recipe === 'w8a8' ? 'fc2' : 'o_proj').node.input(0)!);
      const analysis = analyze(model);
      const { sites, inputs } = makePlan(
        analysis,
        randomStats(analysis),
        withSettings(findRecipe(recipe), settings),
        model,
      );
      const site = sites.find(({ role }) => role === (recipe === 'w8a8' ? 'fc2' : 'o_proj'))!;
      const input = inputs.find(({ sites }) => sites.includes(site.site))!;
      match(input.notes.join(), note);
    });

  it('q, k and v of one layer: heads keep their order', () => {
    const [attention] = analyze(withOutput((model) => layerOf(model, 'qkv_proj').y)).attentions;
    match(attention?.headOrderReason ?? '', /is a graph output$/);
    equal(analyze(loadModel(zooPath('gpt2_kv_ts17'))).attentions[0]?.headOrderReason, undefined);
  });

  it('an Identity in front of one of several layers does not matter', () => {
    const model = loadModel(zooPath('bert_dynamo18'));
    const { node } = layerOf(model, 'v_proj');
    const copy = { opType: 'Identity', name: 'copy', inputs: [node.input(0)], outputs: ['copied'] };
    node.setInput(0, model.graph.addNode(copy, { before: node }).output(0));
    const analysis = analyze(model);
    applyPlan(model, makePlan(analysis, undefined, findRecipe('w8a8'), model), analysis);
    ok(!model.graph.nodes.includes(node));
  });
});
