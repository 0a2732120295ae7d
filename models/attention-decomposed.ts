// Attention from standard operators (opset 18), in the order PyTorch computes it.
import { toFloat16Bits } from '../ops/common/float16.js';
import { int, ints } from '../graph-rewrite/ir/attributes.js';
import { inlineTensor, tensorOf } from '../graph-rewrite/ir/tensor.js';
import type { Value } from '../graph-rewrite/ir/value.js';
import type { Attention } from './build-llama.js';
import type { GraphBuilder } from './graph-builder.js';
import { ropeTables } from './rope.js';

/** Prepares what all layers share (mask, rotary tables at the positions) and returns the layer's part. */
export function decomposedAttention(builder: GraphBuilder, ids: Value, mask: Value): Attention {
  const { config } = builder;
  const { heads, kvHeads, headDim } = config;
  const visible = visibleKeys(builder, ids, mask);
  const rotate = rotation(builder);
  const lowest = builder.constant('lowest', score(builder));
  const scale = builder.constant('scale', score(builder, 1 / Math.sqrt(headDim)));

  return (layer, x, past) => {
    const at = `model.layers.${layer}.self_attn`;
    const path = `/${at.replaceAll('.', '/')}`;
    const split = (part: string, count: number) => {
      const flat = builder.linear([`${at}.${part}_proj`], x, [count * headDim], config.hidden);
      const shape = builder.constant(`split_${count}`, tensorOf([0, 0, count, headDim]));
      const rows = builder.op('Reshape', `${path}/${part}/Reshape`, [flat, shape]);
      return builder.op('Transpose', `${path}/${part}/Transpose`, [rows], { perm: ints([0, 2, 1, 3]) });
    };
    const query = rotate(`${path}/q`, split('q', heads));
    const newKey = rotate(`${path}/k`, split('k', kvHeads));
    const append = (part: 'key' | 'value', fresh: Value) =>
      builder.op('Concat', `${path}/${part}/Concat`, [past[part], fresh], { axis: int(2) }, `present.${layer}.${part}`);
    const key = append('key', newKey);
    const value = append('value', split('v', kvHeads));
    const keys = builder.op('Transpose', `${path}/key/Transpose`, [repeatHeads(builder, `${path}/key`, key)], {
      perm: ints([0, 1, 3, 2]),
    });
    const product = builder.op('MatMul', `${path}/scores/MatMul`, [query, keys]);
    const scores = builder.op('Mul', `${path}/scores/Mul`, [product, scale]);
    const masked = builder.op('Where', `${path}/scores/Where`, [visible, scores, lowest]);
    const weights = builder.op('Softmax', `${path}/Softmax`, [masked], { axis: int(-1) });
    const mixed = builder.op('MatMul', `${path}/MatMul`, [weights, repeatHeads(builder, `${path}/value`, value)]);
    const rows = builder.op('Transpose', `${path}/Transpose`, [mixed], { perm: ints([0, 2, 1, 3]) });
    const shape = builder.constant('merge_heads', tensorOf([0, 0, heads * headDim]));
    return { y: builder.op('Reshape', `${path}/Reshape`, [rows, shape]), key, value };
  };
}

/** A number of the model's type; by default the lowest, which hides a key. */
export function score(builder: GraphBuilder, value = builder.dtype === 'float32' ? -3.4028234663852886e38 : -65504) {
  const data = builder.dtype === 'float32' ? Float32Array.of(value) : Uint16Array.of(toFloat16Bits(value));
  return inlineTensor(builder.dtype, [], new Uint8Array(data.buffer));
}

/** bool [batch, 1, sequence, total]: which keys each new token may see: its own position and before, where the mask is not 0. */
export function visibleKeys(builder: GraphBuilder, ids: Value, mask: Value): Value {
  const zero = builder.constant('zero', tensorOf([0], []));
  const one = builder.constant('one', tensorOf([1], []));
  const length = (name: string, of: Value) =>
    builder.op('Gather', `/model/mask/${name}/Gather`, [builder.op('Shape', `/model/mask/${name}/Shape`, [of]), one], {
      axis: int(0),
    });
  const total = length('total', mask);
  const first = builder.op('Sub', '/model/mask/Sub', [total, length('new', ids)]);
  const keys = builder.op('Range', '/model/mask/keys/Range', [zero, total, one]);
  const queries = builder.op('Range', '/model/mask/queries/Range', [first, total, one]);
  const column = builder.op('Unsqueeze', '/model/mask/queries/Unsqueeze', [
    queries,
    builder.constant('axis_1', tensorOf([1])),
  ]);
  const causal = builder.op('LessOrEqual', '/model/mask/LessOrEqual', [keys, column]);
  const present = builder.op('Cast', '/model/mask/Cast', [mask], { to: int(9) });
  const everywhere = builder.op('Unsqueeze', '/model/mask/Unsqueeze', [
    present,
    builder.constant('axes_1_2', tensorOf([1, 2])),
  ]);
  return builder.op('And', '/model/mask/And', [causal, everywhere]);
}

/** x · cos + (−second half | first half) · sin, at position_ids. */
function rotation(builder: GraphBuilder): (path: string, x: Value) => Value {
  const { graph, config, dtype } = builder;
  const positions = builder.input('position_ids', 'int64', ['batch', 'sequence']);
  const tables = ropeTables(config, dtype);
  const axis = builder.constant('axis_1', tensorOf([1]));
  const at = (name: 'cos' | 'sin') => {
    const table = graph.addInitializer(`${name}_cache`, tables[name]);
    const half = builder.op('Gather', `/model/rotary/${name}/Gather`, [table, positions], { axis: int(0) });
    const whole = builder.op('Concat', `/model/rotary/${name}/Concat`, [half, half], { axis: int(-1) });
    return builder.op('Unsqueeze', `/model/rotary/${name}/Unsqueeze`, [whole, axis]);
  };
  const [cos, sin] = [at('cos'), at('sin')];
  return (path, x) => {
    const halves = graph.addNode({
      opType: 'Split',
      name: `${path}/Split`,
      inputs: [x],
      outputs: [`${path}/first`, `${path}/second`],
      attributes: { axis: int(-1), num_outputs: int(2) },
    });
    const negative = builder.op('Neg', `${path}/Neg`, [halves.output(1)]);
    const turned = builder.op('Concat', `${path}/Concat`, [negative, halves.output(0)], { axis: int(-1) });
    const straight = builder.op('Mul', `${path}/Mul`, [x, cos]);
    return builder.op('Add', `${path}/Add`, [straight, builder.op('Mul', `${path}/Mul_1`, [turned, sin])]);
  };
}

/** [batch, kv heads, total, head dim] → [batch, heads, total, head dim], each head as often as query heads share it. */
export function repeatHeads(builder: GraphBuilder, path: string, x: Value): Value {
  const { heads, kvHeads, headDim } = builder.config;
  if (heads === kvHeads) return x;
  const grouped = builder.op('Unsqueeze', `${path}/Unsqueeze`, [x, builder.constant('axis_2', tensorOf([2]))]);
  const times = builder.constant('repeat_heads', tensorOf([1, 1, heads / kvHeads, 1, 1]));
  const expanded = builder.op('Expand', `${path}/Expand`, [grouped, times]);
  return builder.op('Reshape', `${path}/Reshape`, [
    expanded,
    builder.constant('all_heads', tensorOf([0, heads, -1, headDim])),
  ]);
}
