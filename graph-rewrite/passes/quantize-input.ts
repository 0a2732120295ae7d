/** A Quantize node in front of layers whose producer cannot quantize (attention output). */
import { Quantize } from '../../ops/quantize/contract.js';
import type { Value } from '../ir/index.js';
import { decodeOrder } from '../plan/plan.js';
import type { Pass } from './pass.js';
import { rowFormat } from './row-format.js';
import { orderTensor } from './tensors.js';

export const quantizeInput: Pass = {
  name: 'quantize-input',
  run(context) {
    const planned = context.plan.inputs.filter((input) => input.decision === 'quantize');
    for (const input of planned) {
      const x = context.current(context.group(input).input);
      const [first] = input.sites.map((name) => context.site(name));
      const gathered = input.reorder === 'gather' && input.order !== undefined;
      const order = gathered
        ? context.constant(`${first!.name}/reorder_index`, orderTensor(decodeOrder(input.order)))
        : undefined;
      const parts = Quantize.node<Value>({ x, reorder_index: order }, rowFormat(input));
      const node = context.add(
        parts,
        `${first!.name}/Quantize`,
        [`${first!.name}/q`, `${first!.name}/scale`],
        first!.node,
      );
      context.codes.set(input.id, { q: node.output(0)!, scale: node.output(1)! });
    }
    return planned.length;
  },
};
