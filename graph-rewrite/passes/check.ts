/** What must hold after the passes: nothing is half rewritten. */
import { internalError } from '../../ops/common/errors.js';
import { domain } from '../../ops/define-op.js';
import { attrInt, attrString, type Node } from '../ir/index.js';
import type { PassContext } from './context.js';

/** @throws internal error at the first layer that is neither rewritten nor kept, or whose codes do not fit */
export function checkRewritten(context: PassContext): void {
  for (const planned of context.plan.sites) {
    const { node, graph } = context.site(planned.site);
    const alive = graph.nodes.includes(node);
    if (alive === (planned.decision === 'quantize'))
      throw internalError(
        planned.site,
        alive ? 'is planned as quantized and still there in float' : 'is planned as kept and gone',
      );
  }
  for (const graph of context.model.walkGraphs())
    for (const node of graph.nodes) if (node.is('QuantGemm', domain)) checkProduct(node);
}

function checkProduct(gemm: Node): void {
  const quantizer = gemm.input(1)?.producer;
  if (['none', 's8_dynamic'].includes(attrString(gemm, 'a_format', 'none'))) {
    if (gemm.input(1)) throw internalError(gemm.name, 'has float activations with scales');
    return;
  }
  if (!quantizer || quantizer.domain !== domain || gemm.input(0)?.producer !== quantizer)
    throw internalError(gemm.name, 'does not read the codes and scales of one quantizing node');
  const prefix = quantizer.is('QuantKvAttention', domain) ? 'q_' : '';
  const same =
    attrString(quantizer, `${prefix}format`, '') === attrString(gemm, 'a_format', '') &&
    attrInt(quantizer, `${prefix}group_size`, 0) === attrInt(gemm, 'a_group_size', 0) &&
    attrInt(quantizer, `${prefix}outlier_channels`, 0) === attrInt(gemm, 'outlier_channels', 0);
  if (!same) throw internalError(gemm.name, `reads codes of another format than "${quantizer.name}" writes`);
}
