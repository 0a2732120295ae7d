import { writeFileSync } from 'node:fs';

import { encodeModel, type GraphProto, type ModelProto, type TensorProto } from '../../graph-rewrite/onnx/messages.js';
import { toInt64 } from '../../graph-rewrite/onnx/int64.js';
import { Model } from '../../graph-rewrite/ir/model.js';
import { tensorOf } from '../../graph-rewrite/ir/tensor.js';

/** The message of a float32 tensor in a data file. */
export function externalTensor(name: string, count: number, entries: Record<string, string>): TensorProto {
  const externalData = Object.entries(entries).map(([key, value]) => ({ key, value }));
  return { name, dims: [toInt64(count)], dataType: 1, dataLocation: 1, externalData };
}

/** Writes a model with the given graph, opset 18. */
export function writeModel(path: string, graph: GraphProto, fields: ModelProto = {}): string {
  const model = { irVersion: toInt64(8), opsetImport: [{ domain: '', version: toInt64(18) }], graph, ...fields };
  writeFileSync(path, encodeModel(model));
  return path;
}

/** y = x · w + b with w [4,3] = 0 … 11. */
export function linearModel(): Model {
  const model = new Model({ opsetImports: [['', 18]] });
  const { graph } = model;
  const x = graph.addInput('x', 'float32', ['rows', 4]);
  const w = graph.addInitializer(
    'w',
    tensorOf(
      Float32Array.from({ length: 12 }, (_, i) => i),
      [4, 3],
    ),
  );
  const b = graph.addInitializer('b', tensorOf(Float32Array.of(1, 2, 3)));
  const product = graph.addNode({ opType: 'MatMul', name: 'matmul', inputs: [x, w], outputs: ['xw'] });
  const sum = graph.addNode({ opType: 'Add', name: 'add', inputs: [product.output(0), b], outputs: ['y'] });
  const y = sum.output(0)!;
  y.dtype = 'float32';
  y.shape = ['rows', 3];
  graph.addOutput(y);
  return model;
}
