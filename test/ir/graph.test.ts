import assert from 'node:assert/strict';
import { InferenceSession, Tensor } from 'onnxruntime-node';

import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { checkModel } from '../../graph-rewrite/ir/check.js';
import type { Model } from '../../graph-rewrite/ir/model.js';
import { Model as ModelClass } from '../../graph-rewrite/ir/model.js';
import { Graph } from '../../graph-rewrite/ir/graph.js';
import { printGraph } from '../../graph-rewrite/ir/print.js';
import { int, tensor } from '../../graph-rewrite/ir/attributes.js';
import { tensorOf } from '../../graph-rewrite/ir/tensor.js';
import { linearModel } from '../helpers/models.js';

/** If(flag) then x + c else x * c, with x and c from outside. */
function branchingModel(): Model {
  const model = new ModelClass({ opsetImports: [['', 18]] });
  const { graph } = model;
  const flag = graph.addInput('flag', 'bool', []);
  const x = graph.addInput('x', 'float32', [2]);
  const c = graph.addInitializer('c', tensorOf(Float32Array.of(10, 20)));
  const branch = (name: string, opType: string) => {
    const inner = new Graph(model, name, graph);
    const node = inner.addNode({ opType, inputs: [x, c], outputs: [`${name}_y`] });
    node.output(0)!.dtype = 'float32';
    inner.addOutput(node.output(0)!);
    return { type: 'graph', value: inner } as const;
  };
  const attributes = { then_branch: branch('yes', 'Add'), else_branch: branch('no', 'Mul') };
  const choice = graph.addNode({ opType: 'If', inputs: [flag], outputs: ['y'], attributes });
  choice.output(0)!.dtype = 'float32';
  graph.addOutput(choice.output(0)!);
  return model;
}

async function run(model: Model, feeds: Record<string, Tensor>): Promise<number[]> {
  const session = await InferenceSession.create(serializeModel(model));
  const { y } = await session.run(feeds);
  await session.release();
  return [...(y!.data as Float32Array)];
}

describe('graph', () => {
  const x = () => new Tensor('float32', Float32Array.of(1, 0, 2, 0), [1, 4]);

  it('is built, printed, checked and run', async () => {
    const model = linearModel();
    checkModel(model);
    assert.equal(
      printGraph(model.graph),
      [
        'input  x: float32[rows,4]',
        'const  w: float32[4,3]',
        'const  b: float32[3]',
        'node   xw = MatMul(x, w)',
        'node   y = Add(xw, b)',
        'output y: float32[rows,3]',
      ].join('\n'),
    );
    assert.deepEqual(await run(model, { x: x() }), [13, 17, 21]);
  });

  it('replaces uses, and an output keeps its name and type', async () => {
    const model = linearModel();
    const { graph } = model;
    const y = graph.value('y')!;
    const twice = graph.addNode({ opType: 'Add', inputs: [y, y], outputs: ['twice'] });
    graph.replaceAllUses(y, twice.output(0)!);
    assert.deepEqual(
      graph.outputs.map((value) => [value.name, value.shape]),
      [['y', ['rows', 3]]],
    );
    assert.equal(y.name, 'twice');
    assert.deepEqual(await run(model, { x: x() }), [26, 34, 42]);
  });

  it('puts an Identity where an input or a constant becomes an output', async () => {
    const model = linearModel();
    const { graph } = model;
    graph.replaceAllUses(graph.value('y')!, graph.value('b')!);
    assert.deepEqual(graph.prune(), { nodes: 2, initializers: 1 });
    assert.equal(printGraph(graph).split('\n').at(-2), 'node   y = Identity(b)');
    assert.deepEqual(await run(model, { x: x() }), [1, 2, 3]);
  });

  it('removes only what nothing uses', () => {
    const { graph } = linearModel();
    const [matmul, add] = graph.nodes;
    assert.throws(() => graph.removeNode(matmul!), /"xw" is used by "add"/);
    assert.throws(() => graph.removeNode(add!), /"y" is used by the graph outputs/);
    assert.deepEqual(graph.prune(), { nodes: 0, initializers: 0 });
  });

  it('makes names unique over all graphs', () => {
    const { graph } = branchingModel();
    const node = graph.addNode({ opType: 'Identity', name: 'If', inputs: [graph.value('x')], outputs: ['yes_y'] });
    assert.equal(node.name, 'If_1');
    assert.equal(node.output(0)!.name, 'yes_y_1');
    graph.removeNode(node);
    assert.equal(graph.addInitializer('yes_y_1', tensorOf([1])).name, 'yes_y_1');
  });

  it('sorts, stably, and finds cycles', () => {
    const { graph } = linearModel();
    const [matmul, add] = graph.nodes;
    graph.nodes.reverse();
    graph.sort();
    assert.deepEqual(graph.nodes, [matmul, add]);
    matmul!.setInput(1, add!.output(0));
    assert.throws(() => graph.sort(), /are on a cycle/);
  });

  it('sees uses inside subgraphs and replaces them there', async () => {
    const model = branchingModel();
    const { graph } = model;
    const outer = graph.value('x')!;
    assert.equal(outer.uses.length, 2);
    const negative = graph.addNode({ opType: 'Neg', inputs: [outer], outputs: ['negative'] });
    graph.replaceAllUses(outer, negative.output(0)!);
    checkModel(model);
    const feeds = (flag: number) => ({
      flag: new Tensor('bool', Uint8Array.of(flag), []),
      x: new Tensor('float32', Float32Array.of(1, 2), [2]),
    });
    assert.deepEqual(await run(model, feeds(1)), [9, 18]);
    assert.deepEqual(await run(model, feeds(0)), [-10, -40]);
    assert.deepEqual(
      graph.nodes.map((node) => node.opType),
      ['Neg', 'If'],
    );
  });

  it('prunes what only removed subgraphs used', () => {
    const model = branchingModel();
    const { graph } = model;
    graph.replaceAllUses(graph.value('y')!, graph.value('x')!);
    assert.deepEqual(graph.prune(), { nodes: 1, initializers: 1 });
    assert.equal([...model.walkGraphs()].length, 1);
  });

  it('knows constants: initializers, Constant nodes, behind Identity, but not defaults of inputs', () => {
    const { graph } = linearModel();
    const value = tensor(tensorOf(Float32Array.of(5), []));
    const constant = graph.addNode({ opType: 'Constant', inputs: [], outputs: ['c'], attributes: { value } });
    const same = graph.addNode({ opType: 'Identity', inputs: [constant.output(0)], outputs: ['same'] });
    const four = graph.addNode({
      opType: 'Constant',
      inputs: [],
      outputs: ['four'],
      attributes: { value_int: int(4) },
    });
    assert.deepEqual(same.output(0)!.constant()?.dims, []);
    assert.equal(four.output(0)!.constant()?.dtype, 'int64');
    assert.equal(graph.value('xw')!.constant(), undefined);
    const w = graph.value('w')!;
    assert.ok(w.constant());
    w.isGraphInput = true;
    assert.equal(w.constant(), undefined);
  });

  it('reports values that nothing defines', () => {
    const model = linearModel();
    model.graph.value('w')!.initializer = undefined;
    assert.throws(() => checkModel(model), /node "matmul" \(MatMul\): its input "w" is defined nowhere/);
  });
});
