/** act(gate) · up → GatedActQuantize. The channel order is in the rows of gate and up (swap-linear). */
import { internalError } from '../../ops/common/errors.js';
import { GatedActQuantize } from '../../ops/gated-act-quantize/contract.js';
import { readsAlone } from '../analyze/activations.js';
import type { Value } from '../ir/index.js';
import { moveShapeUses } from './context.js';
import type { Pass } from './pass.js';
import { rowFormat } from './row-format.js';

export const fuseGate: Pass = {
  name: 'fuse-gate',
  run(context) {
    const planned = context.plan.inputs.filter((input) => input.decision === 'fuse-gate');
    for (const input of planned) {
      const { producer } = context.group(input);
      if (producer.kind !== 'gate') throw internalError('fuse-gate', `"${input.value}" does not come from a gate`);
      const { gate } = producer;
      const packed = readsAlone(gate) && context.pack([gate.gate, gate.up]);
      const parts = GatedActQuantize.node<Value>(
        { gate: context.current(gate.gate), up: packed ? undefined : context.current(gate.up) },
        { activation: gate.activation, ...rowFormat(input) },
      );
      const node = context.add(
        parts,
        `${gate.name}/GatedActQuantize`,
        [`${gate.name}/q`, `${gate.name}/scale`],
        gate.node,
      );
      context.codes.set(input.id, { q: node.output(0)!, scale: node.output(1)! });
      moveShapeUses(gate.y, node.output(0)!);
    }
    return planned.length;
  },
};
