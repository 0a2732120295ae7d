/** Declares the operator domain and records in the model how it was made. */
import { textFactsKey } from '../../native/js/lm/facts.js';
import { domain } from '../../ops/define-op.js';
import { textFacts } from '../lm/facts.js';
import { recipeKey } from '../plan/plan.js';
import type { Pass } from './pass.js';

/** Version of what the metadata of rewritten models says. */
const stampVersion = '1';

export const stamp: Pass = {
  name: 'stamp',
  run({ model, plan }) {
    model.opsetImports.set(domain, 1);
    model.metadata.set('lowbit.version', stampVersion);
    model.metadata.set(recipeKey, JSON.stringify(plan.recipe));
    // A decoding loop then needs the session alone.
    model.metadata.set(textFactsKey, JSON.stringify(textFacts(model)));
    return 1;
  },
};
