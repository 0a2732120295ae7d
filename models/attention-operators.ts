// Attention by com.microsoft MultiHeadAttention or ONNX's Attention (opset 23), with RotaryEmbedding in front and the mask of plain nodes.
import { float, int, ints, type Attribute } from '../graph-rewrite/ir/attributes.js';
import { tensorOf } from '../graph-rewrite/ir/tensor.js';
import type { Value } from '../graph-rewrite/ir/value.js';
import { score, repeatHeads, visibleKeys } from './attention-decomposed.js';
import type { Attention } from './build-llama.js';
import type { GraphBuilder } from './graph-builder.js';
import { ropeTables } from './rope.js';

/** ONNX's operator rotates nothing and keeps the cache itself; its mask is of conditions. */
export function onnxAttention(builder: GraphBuilder, ids: Value, mask: Value): Attention {
  const { config, graph } = builder;
  const visible = visibleKeys(builder, ids, mask);
  const rotate = rotation(builder, '');
  return (layer, x, past) => {
    const { path, q, k, v } = rows(builder, layer, x, rotate);
    const node = graph.addNode({
      ...{ opType: 'Attention', name: `${path}/Attention` },
      inputs: [q, k, v, visible, past.key, past.value],
      outputs: [`${path}/Attention/output_0`, `present.${layer}.key`, `present.${layer}.value`],
      attributes: {
        ...{ q_num_heads: int(config.heads), kv_num_heads: int(config.kvHeads) },
        scale: float(1 / Math.sqrt(config.headDim)),
      },
    });
    return { y: node.output(0)!, key: node.output(1)!, value: node.output(2)! };
  };
}

/** MultiHeadAttention as onnxruntime-genai writes it: it keeps the cache, unless heads have to be repeated in front of it. */
export function multiHeadAttention(builder: GraphBuilder, ids: Value, mask: Value): Attention {
  const { config, graph } = builder;
  const { heads, kvHeads, headDim } = config;
  const zero = builder.constant('no_score', score(builder, 0));
  const lowest = builder.constant('lowest', score(builder));
  const bias = builder.op('Where', '/model/mask/Where', [visibleKeys(builder, ids, mask), zero, lowest]);
  const rotate = rotation(builder, 'com.microsoft');
  return (layer, x, past) => {
    const { path, q, k, v } = rows(builder, layer, x, rotate);
    const attend = (inputs: readonly (Value | undefined)[], presents: readonly string[]) =>
      graph.addNode({
        ...{ opType: 'MultiHeadAttention', domain: 'com.microsoft', name: `${path}/MultiHeadAttention` },
        inputs: [q, inputs[0], inputs[1], undefined, undefined, bias, ...inputs.slice(2)],
        outputs: [`${path}/MultiHeadAttention/output_0`, ...presents],
        attributes: { num_heads: int(heads), scale: float(1 / Math.sqrt(headDim)) },
      });
    if (heads === kvHeads) {
      const node = attend([k, v, past.key, past.value], [`present.${layer}.key`, `present.${layer}.value`]);
      return { y: node.output(0)!, key: node.output(1)!, value: node.output(2)! };
    }
    const join = (part: 'key' | 'value', fresh: Value) => {
      const shape = builder.constant('split_kv', tensorOf([0, 0, kvHeads, headDim]));
      const wide = builder.op('Reshape', `${path}/${part}/Reshape`, [fresh, shape]);
      const split = builder.op('Transpose', `${path}/${part}/Transpose`, [wide], { perm: ints([0, 2, 1, 3]) });
      const name = `present.${layer}.${part}`;
      return builder.op('Concat', `${path}/${part}/Concat`, [past[part], split], { axis: int(2) }, name);
    };
    const merge = (part: 'key' | 'value', all: Value) => {
      const repeated = repeatHeads(builder, `${path}/${part}`, all);
      const turned = builder.op('Transpose', `${path}/${part}/Transpose_1`, [repeated], { perm: ints([0, 2, 1, 3]) });
      const shape = builder.constant('merge_heads', tensorOf([0, 0, heads * headDim]));
      return builder.op('Reshape', `${path}/${part}/Reshape_1`, [turned, shape]);
    };
    const [key, value] = [join('key', k), join('value', v)];
    return { y: attend([merge('key', key), merge('value', value)], []).output(0)!, key, value };
  };
}

type Rotate = (path: string, x: Value, heads: number) => Value;

/** RotaryEmbedding of either domain at position_ids. */
function rotation(builder: GraphBuilder, domain: '' | 'com.microsoft'): Rotate {
  const { graph, config } = builder;
  const positions = builder.input('position_ids', 'int64', ['batch', 'sequence']);
  const tables = ropeTables(config, builder.dtype);
  const [cos, sin] = [graph.addInitializer('cos_cache', tables.cos), graph.addInitializer('sin_cache', tables.sin)];
  return (path, x, heads) => {
    const inputs = domain === '' ? [x, cos, sin, positions] : [x, positions, cos, sin];
    const attributes: Record<string, Attribute> = { num_heads: int(heads), interleaved: int(0) };
    const name = `${path}/RotaryEmbedding`;
    return graph
      .addNode({ opType: 'RotaryEmbedding', domain, name, inputs, outputs: [`${name}/output_0`], attributes })
      .output(0)!;
  };
}

/** Rows of queries, keys and values of a layer, the first two rotated. */
function rows(builder: GraphBuilder, layer: number, x: Value, rotate: Rotate) {
  const { heads, kvHeads, headDim, hidden } = builder.config;
  const at = `model.layers.${layer}.self_attn`;
  const path = `/${at.replaceAll('.', '/')}`;
  const linear = (part: string, count: number) => builder.linear([`${at}.${part}_proj`], x, [count * headDim], hidden);
  return {
    path,
    q: rotate(`${path}/q`, linear('q', heads), heads),
    k: rotate(`${path}/k`, linear('k', kvHeads), kvHeads),
    v: linear('v', kvHeads),
  };
}
