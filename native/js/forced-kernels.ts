import { inputError } from '../../ops/common/errors.js';
import type { Addon } from './addon.js';
import { readEnvironment } from './env.js';
import type { OperatorLibraryDescription } from './info.js';

/**
 * Refuses names in ORT_LOWBIT_FORCE_KERNEL that no kernel has: the operators look for their own names only, and pass over the rest.
 * @throws LowbitError 'input' that lists the names
 */
export function checkForcedKernels(addon: Addon): void {
  const forced = readEnvironment('ORT_LOWBIT_FORCE_KERNEL');
  if (forced === undefined) return;
  const { kernels } = JSON.parse(addon.describeOps()) as OperatorLibraryDescription;
  const full = kernels.map(({ name }) => name);
  const architectures = [...new Set(full.map((name) => name.replace(/^.*__/, '')))];
  const unknown = forced.split(',').filter((name) => name !== '' && ![...full, ...architectures].includes(name));
  if (unknown.length === 0) return;
  throw inputError(
    'ORT_LOWBIT_FORCE_KERNEL',
    `names ${unknown.join(', ')}, expected kernels such as ${full[0]}, or all of ${architectures.join(', ')}`,
    'Unset it, and every operator takes its fastest.',
  );
}
