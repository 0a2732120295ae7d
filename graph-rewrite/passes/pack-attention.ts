/** GroupQueryAttention that stays reads q, k and v as one value where one product makes them. */
import { attentionRows } from '../analyze/attention-rows.js';
import type { Pass } from './pass.js';

export const packAttention: Pass = {
  name: 'pack-attention',
  run(context) {
    const taken = new Set(
      (context.plan.caches ?? []).flatMap(({ site, decision }) => (decision === 'quantize' ? [site] : [])),
    );
    let changed = 0;
    for (const attention of context.analysis.attentions) {
      if (taken.has(attention.name)) continue;
      const rows = attentionRows(attention, undefined);
      if (!rows || !context.pack(rows)) continue;
      attention.node.setInput(1, undefined);
      attention.node.setInput(2, undefined);
      changed++;
    }
    return changed;
  },
};
