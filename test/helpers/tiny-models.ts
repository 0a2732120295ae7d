/** Small ONNX models as bytes, for tests of the host. */
import { int, type Attribute } from '../../graph-rewrite/ir/attributes.js';
import { inlineTensor, Model, tensorOf, type DType, type Tensor, type Value } from '../../graph-rewrite/ir/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';

type Shape = NonNullable<Value['shape']>;

function newModel(): Model {
  return new Model({ irVersion: 10, opsetImports: [['', 21]] });
}

function finish(model: Model, outputs: readonly [Value, DType, Shape][]): Uint8Array {
  for (const [value, dtype, shape] of outputs) {
    value.dtype = dtype;
    value.shape = shape;
    model.graph.addOutput(value);
  }
  return serializeModel(model);
}

/** y = op(x), both of one type and shape. */
export function unaryModel(opType: string, dtype: DType, shape: Shape = ['n']): Uint8Array {
  const model = newModel();
  const x = model.graph.addInput('x', dtype, shape);
  const node = model.graph.addNode({ opType, inputs: [x], outputs: ['y'] });
  return finish(model, [[node.output(0)!, dtype, shape]]);
}

/** y = cast(x): a way in and out for types that few operators take. */
export function castModel(from: DType, to: DType, toNumber: number): Uint8Array {
  const model = newModel();
  const x = model.graph.addInput('x', from, ['n']);
  const node = model.graph.addNode({
    opType: 'Cast',
    inputs: [x],
    outputs: ['y'],
    attributes: { to: int(toNumber) },
  });
  return finish(model, [[node.output(0)!, to, ['n']]]);
}

/** sum = a + b and difference = a − b, float32 ['rows', 3]. */
export function addSubModel(): Uint8Array {
  const model = newModel();
  const shape: Shape = ['rows', 3];
  const a = model.graph.addInput('a', 'float32', shape);
  const b = model.graph.addInput('b', 'float32', shape);
  const sum = model.graph.addNode({ opType: 'Add', inputs: [a, b], outputs: ['sum'] }).output(0)!;
  const difference = model.graph.addNode({ opType: 'Sub', inputs: [a, b], outputs: ['difference'] }).output(0)!;
  return finish(model, [
    [sum, 'float32', shape],
    [difference, 'float32', shape],
  ]);
}

/** y = x·w·w·…·w, float32 [size, size], `steps` products: as long as one likes, and it can be stopped between products. */
export function longModel(size: number, steps: number): Uint8Array {
  const model = newModel();
  const shape: Shape = [size, size];
  const x = model.graph.addInput('x', 'float32', shape);
  const w = model.graph.addInput('w', 'float32', shape);
  let y = x;
  for (let i = 0; i < steps; i++) {
    const last = i === steps - 1;
    y = model.graph.addNode({ opType: 'MatMul', inputs: [y, w], outputs: [last ? 'y' : `y${i}`] }).output(0)!;
  }
  return finish(model, [[y, 'float32', shape]]);
}

/** y = x + weight, float32 ['n']; the weight as given (external or not). */
export function weightModel(weight: Tensor): Model {
  const model = newModel();
  const x = model.graph.addInput('x', 'float32', weight.dims);
  const w = model.graph.addInitializer('weight', weight);
  const y = model.graph.addNode({ opType: 'Add', inputs: [x, w], outputs: ['y'] }).output(0)!;
  y.dtype = 'float32';
  y.shape = weight.dims;
  model.graph.addOutput(y);
  return model;
}

/** A model with one op of our domain: q, scale = Quantize(x), x float32 ['rows', channels]. */
export function quantizeModel(channels: number): Uint8Array {
  const model = newModel();
  model.opsetImports.set('lowbit', 1);
  const x = model.graph.addInput('x', 'float32', ['rows', channels]);
  const node = model.graph.addNode({
    opType: 'Quantize',
    domain: 'lowbit',
    inputs: [x],
    outputs: ['q', 'scale'],
    attributes: { format: { type: 'string', value: 's8' }, group_size: int(0) },
  });
  return finish(model, [
    [node.output(0)!, 'int8', ['rows', channels]],
    [node.output(1)!, 'float32', ['rows', 1]],
  ]);
}

export { tensorOf };

/**
 * A quantized layer as the rewriter leaves it: y = QuantGemm(Quantize(x)), s8 codes per row, s8 weights per channel.
 * x float32 ['rows', channels], y float32 ['rows', outputs].
 */
export function quantizedLayerModel(channels: number, outputs: number): Uint8Array {
  const model = newModel();
  model.opsetImports.set('lowbit', 1);
  const { graph } = model;
  const x = graph.addInput('x', 'float32', ['rows', channels]);
  const s8: Attribute = { type: 'string', value: 's8' };
  const quantize = graph.addNode({
    opType: 'Quantize',
    domain: 'lowbit',
    inputs: [x],
    outputs: ['q', 'scale'],
    attributes: { format: s8, group_size: int(0) },
  });
  const codes = Int8Array.from({ length: outputs * channels }, (_, i) => ((i * 53) % 255) - 127);
  const halfOne = new Uint8Array(Uint16Array.from({ length: outputs }, () => 0x2c00).buffer); // 1/16
  const gemm = graph.addNode({
    opType: 'QuantGemm',
    domain: 'lowbit',
    inputs: [
      quantize.output(0),
      quantize.output(1),
      graph.addInitializer('b', tensorOf(codes, [outputs, channels])),
      graph.addInitializer('b_scale', inlineTensor('float16', [outputs, 1], halfOne)),
      undefined,
      undefined,
      graph.addInitializer('bias', tensorOf(Float32Array.from({ length: outputs }, (_, i) => i))),
    ],
    outputs: ['y'],
    attributes: {
      K: int(channels),
      N: int(outputs),
      weight_format: s8,
      group_size: int(0),
      a_format: s8,
      a_group_size: int(0),
      outlier_channels: int(0),
    },
  });
  return finish(model, [[gemm.output(0)!, 'float32', ['rows', outputs]]]);
}
