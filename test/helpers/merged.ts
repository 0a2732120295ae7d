/** A model with layers in the branches of an If, as decoders have them whose two forms were merged. */
import { Tensor } from 'onnxruntime-common';
import { Graph, type Model } from '../../graph-rewrite/ir/index.js';
import type { Feeds } from '../../graph-rewrite/lm/index.js';
import { TestGraph } from './graph.js';
import { Random } from './random.js';

/** Input and output channels of its layer. */
const [K, N] = [64, 48];

/** Two branches that norm x, one of them negated, and multiply it by one weight; `depth` Ifs around each other. */
export function merged(depth = 1): Model {
  const g = new TestGraph();
  const flag = g.input('flag', [1], 'bool');
  const x = g.input('x', ['rows', K]);
  const [gamma, weight] = [g.weight('gamma', [K], 2), g.weight('w', [K, N])];
  const branch = (around: TestGraph, name: string, sign: number, left: number): Graph => {
    const inner = new TestGraph(18, new Graph(g.model, name, around.graph));
    if (left > 1) inner.output(choose(inner, name, left - 1), ['rows', N]);
    else {
      const rows = inner.rmsNorm(inner.op('Mul', [x, inner.number(sign)]), gamma);
      inner.output(inner.op('MatMul', [rows, weight], { name: `${name}/layer` }), ['rows', N]);
    }
    return inner.graph;
  };
  const choose = (around: TestGraph, name: string, left: number) => {
    const attributes = {
      then_branch: { type: 'graph', value: branch(around, `${name}then`, 1, left) },
      else_branch: { type: 'graph', value: branch(around, `${name}else`, -1, left) },
    } as const;
    return around.op('If', [flag], { attributes, name: `${name}if` });
  };
  g.output(choose(g, '', depth), ['rows', N]);
  return g.model;
}

/** Rows whose first channels are large. */
export function mergedFeed(flag: boolean, stream = 'rows'): Feeds {
  const values = new Random(stream).normals('float32', 5 * K).map((value, i) => (i % K < 16 ? 20 * value : value));
  return { flag: new Tensor('bool', [flag], [1]), x: new Tensor('float32', values, [5, K]) };
}
