import { equal, match } from 'node:assert/strict';
import { linearSize } from '../../graph-rewrite/cli/linear-size.js';
import { describeResult } from '../../graph-rewrite/cli/report.js';
import { analyze, applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { Graph } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';

describe('cli: the report', () => {
  it('of two branches with one weight: says what they lack, and counts what is stored', () => {
    const g = new TestGraph();
    const x = g.input('x', ['rows', 64]);
    const weight = g.weight('w', [64, 48]);
    const branch = (name: string) => {
      const inner = new TestGraph(18, new Graph(g.model, name, g.graph));
      inner.output(inner.op('MatMul', [x, weight], { name: `${name}_layer` }), ['rows', 48]);
      return { type: 'graph', value: inner.graph } as const;
    };
    const attributes = { then_branch: branch('then'), else_branch: branch('else') };
    g.output(g.op('If', [g.input('flag', [1], 'bool')], { attributes }), ['rows', 48]);
    const recipe = withSettings(findRecipe('w8a8'), ['weight.rounding=gptq', 'outliers.channels=16']);
    const analysis = analyze(g.model);
    const plan = makePlan(analysis, undefined, recipe, g.model);
    applyPlan(g.model, plan, analysis);
    const { weights, bytes, bitsPerWeight } = linearSize(g.model);
    equal(weights, 64 * 48);
    equal(bytes, plan.predicted.linearBytes);
    const summary = {
      ...{
        model: 'in.onnx',
        recipe: recipe.name,
        input: { bytes: 2 },
        output: { path: 'out.onnx', bytes: 1, files: [] },
      },
      ...{ sites: { quantized: 2, kept: 0 }, kept: [], seconds: 1, peakRssBytes: 1 },
      bitsPerWeight: { predicted: bitsPerWeight, real: bitsPerWeight },
    };
    const report = describeResult(summary, plan);
    match(report, /^2 layers: no calibration statistics for this input: channels keep their order$/m);
    match(
      report,
      /^2 layers: inside a subgraph, without calibration statistics that show GPTQ rows there: rounded to nearest$/m,
    );
  });
});
