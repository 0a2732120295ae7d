/** A gated feed-forward block that computes in any float type, between float32 inputs and outputs. */
import { analyze, applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { int } from '../../graph-rewrite/ir/attributes.js';
import { bfloatToFloat } from '../../graph-rewrite/ir/half.js';
import { inlineTensor, Model, type Value } from '../../graph-rewrite/ir/index.js';
import { dtypeToOnnx } from '../../graph-rewrite/onnx/dtype.js';
import type { GraphType } from '../../graph-rewrite/passes/context.js';
import { toBfloat16Array, toFloat16Array } from '../../ops/common/float16.js';
import { Random } from './random.js';

export const feedForwardChannels = 256;

/**
 * y = x + down(silu(gate(n)) · up(n)), n = norm(x): [rows, 256], wide 512, every layer with a bias. The constants are bfloat16 values,
 * the same in all types.
 */
function feedForward(type: GraphType): Model {
  const model = new Model({ irVersion: 10, opsetImports: [['', 21]] });
  const { graph } = model;
  const [channels, wide] = [feedForwardChannels, 512];
  const constant = (name: string, dims: number[], spread: number, middle = 0): Value => {
    const count = dims.reduce((a, b) => a * b, 1);
    const bits = toBfloat16Array(new Random(name).normals('float32', count).map((each) => middle + spread * each));
    const floats = bfloatToFloat(bits);
    const data = { float32: floats, float16: toFloat16Array(floats), bfloat16: bits }[type];
    return graph.addInitializer(name, inlineTensor(type, dims, new Uint8Array(data.buffer)));
  };
  const add = (opType: string, inputs: Value[], name: string, attributes = {}): Value =>
    graph.addNode({ opType, inputs, outputs: [name], name, attributes }).output(0)!;
  const linear = (x: Value, name: string, K: number, N: number): Value =>
    add(
      'Add',
      [add('MatMul', [x, constant(`${name}.weight`, [K, N], 0.1)], name), constant(`${name}.bias`, [N], 0.1)],
      `${name}/bias`,
    );

  const x = graph.addInput('x', 'float32', ['rows', channels]);
  const inner = add('Cast', [x], 'in', { to: int(dtypeToOnnx(type)) });
  const normed = add('SimplifiedLayerNormalization', [inner, constant('norm.weight', [channels], 0.2, 1)], 'norm');
  const gate = linear(normed, 'gate', channels, wide);
  const silu = add('Mul', [gate, add('Sigmoid', [gate], 'sigmoid')], 'silu');
  const hidden = add('Mul', [silu, linear(normed, 'up', channels, wide)], 'product');
  const sum = add('Add', [inner, linear(hidden, 'down', wide, channels)], 'residual');
  const y = add('Cast', [sum], 'y', { to: int(dtypeToOnnx('float32')) });
  y.dtype = 'float32';
  y.shape = ['rows', channels];
  graph.addOutput(y);
  return model;
}

/** The block with its three layers rewritten, weights rounded to nearest. */
export function rewrittenFeedForward(type: GraphType, recipe: string): Model {
  const model = feedForward(type);
  const analysis = analyze(model);
  const plan = makePlan(analysis, undefined, withSettings(findRecipe(recipe), ['weight.rounding=rtn']), model);
  applyPlan(model, plan, analysis);
  return model;
}
