/** act(x) → ActQuantize. The channel order is in the rows of the layer in front (swap-linear). */
import { ActQuantize } from '../../ops/act-quantize/contract.js';
import { internalError } from '../../ops/common/errors.js';
import type { Value } from '../ir/index.js';
import { moveShapeUses } from './context.js';
import type { Pass } from './pass.js';
import { rowFormat } from './row-format.js';

export const fuseAct: Pass = {
  name: 'fuse-act',
  run(context) {
    const planned = context.plan.inputs.filter((input) => input.decision === 'fuse-act');
    for (const input of planned) {
      const { producer } = context.group(input);
      if (producer.kind !== 'act') throw internalError('fuse-act', `"${input.value}" does not come from an activation`);
      const { act } = producer;
      const parts = ActQuantize.node<Value>(
        { x: context.current(act.x) },
        { activation: act.activation, ...rowFormat(input) },
      );
      const node = context.add(parts, `${act.name}/ActQuantize`, [`${act.name}/q`, `${act.name}/scale`], act.node);
      context.codes.set(input.id, { q: node.output(0)!, scale: node.output(1)! });
      moveShapeUses(act.y, node.output(0)!);
    }
    return planned.length;
  },
};
