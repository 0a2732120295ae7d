// Attention by com.microsoft GroupQueryAttention, which also rotates and appends to the cache.
import { float, int } from '../graph-rewrite/ir/attributes.js';
import { tensorOf } from '../graph-rewrite/ir/tensor.js';
import type { Value } from '../graph-rewrite/ir/value.js';
import type { Attention } from './build-llama.js';
import type { GraphBuilder } from './graph-builder.js';
import { ropeTables } from './rope.js';

/** Prepares what all layers share (lengths from the mask, rotary tables) and returns the layer's part. */
export function groupQueryAttention(builder: GraphBuilder, _ids: Value, mask: Value): Attention {
  const { config, graph } = builder;
  const one = builder.constant('one', tensorOf([1]));
  const sum = builder.op('ReduceSum', '/model/lengths/ReduceSum', [mask, one], { keepdims: int(0) });
  const last = builder.op('Sub', '/model/lengths/Sub', [sum, one]);
  const lengths = builder.op('Cast', '/model/lengths/Cast', [last], { to: int(6) });
  const shape = builder.op('Shape', '/model/lengths/Shape', [mask]);
  const column = builder.op(
    'Gather',
    '/model/lengths/Gather',
    [shape, builder.constant('one_scalar', tensorOf([1], []))],
    { axis: int(0) },
  );
  const total = builder.op('Cast', '/model/lengths/Cast_1', [column], { to: int(6) });
  const tables = ropeTables(config, builder.dtype);
  const cos = graph.addInitializer('cos_cache', tables.cos);
  const sin = graph.addInitializer('sin_cache', tables.sin);

  return (layer, x, past) => {
    const at = `model.layers.${layer}.self_attn`;
    const names = ['q_proj', 'k_proj', 'v_proj'].map((name) => `${at}.${name}`);
    const widths = [config.heads, config.kvHeads, config.kvHeads].map((heads) => heads * config.headDim);
    const qkv = builder.linear(names, x, widths, config.hidden);
    const node = graph.addNode({
      opType: 'GroupQueryAttention',
      domain: 'com.microsoft',
      name: `/${at.replaceAll('.', '/')}/GroupQueryAttention`,
      inputs: [qkv, undefined, undefined, past.key, past.value, lengths, total, cos, sin],
      outputs: [`/${at.replaceAll('.', '/')}/output_0`, `present.${layer}.key`, `present.${layer}.value`],
      attributes: {
        num_heads: int(config.heads),
        kv_num_heads: int(config.kvHeads),
        scale: float(1 / Math.sqrt(config.headDim)),
        do_rotary: int(1),
        rotary_interleaved: int(0),
      },
    });
    return { y: node.output(0)!, key: node.output(1)!, value: node.output(2)! };
  };
}
