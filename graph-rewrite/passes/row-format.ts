import type { ActivationFormat } from '../../ops/formats/formats.js';
import type { PlanInput } from '../plan/plan.js';

/** The attributes that every quantizing operator has, from a plan entry. */
export function rowFormat(input: PlanInput): {
  format: ActivationFormat;
  group_size: number;
  outlier_channels: number;
  clip: number;
} {
  return {
    // 'none' has no quantizing operator; plans with it never get here.
    format: input.format === 'none' ? 's8' : input.format,
    group_size: input.groupSize,
    outlier_channels: input.outlierChannels,
    clip: input.clip,
  };
}
