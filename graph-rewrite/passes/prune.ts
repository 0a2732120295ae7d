/** Removes what nothing uses any more, and puts nodes back into order. */
import type { Pass } from './pass.js';

export const prune: Pass = {
  name: 'prune',
  run({ model }) {
    const removed = model.graph.prune();
    for (const graph of model.walkGraphs()) graph.sort();
    return removed.nodes;
  },
};
