/** Shapes that tests run: row counts around every tile size, channel counts with and without tails. */

import type { ActivationFormat } from '../../ops/formats/formats.js';

export const rowCounts = [0, 1, 2, 7, 16, 17, 64, 129] as const;

export interface RowCase {
  readonly K: number;
  readonly groupSize: number;
  readonly outlierChannels: number;
  readonly format: ActivationFormat;
  readonly clip: number;
}

/** K below, at and above vector and lane widths; groups and outliers with and without. */
export const rowCases: readonly RowCase[] = [
  { K: 1, groupSize: 0, outlierChannels: 0, format: 's8', clip: 1 },
  { K: 16, groupSize: 16, outlierChannels: 0, format: 's4', clip: 1 },
  { K: 37, groupSize: 0, outlierChannels: 5, format: 's8', clip: 0.5 },
  { K: 48, groupSize: 16, outlierChannels: 16, format: 's4', clip: 0.9 },
  { K: 100, groupSize: 0, outlierChannels: 0, format: 's4', clip: 1 },
  { K: 144, groupSize: 48, outlierChannels: 0, format: 's8', clip: 1 },
  { K: 384, groupSize: 128, outlierChannels: 128, format: 's4', clip: 0.9 },
  { K: 1023, groupSize: 64, outlierChannels: 63, format: 's4', clip: 0.85 },
  { K: 1024, groupSize: 0, outlierChannels: 128, format: 's8', clip: 1 },
  { K: 1500, groupSize: 0, outlierChannels: 0, format: 's4', clip: 0.01 },
  { K: 2336, groupSize: 32, outlierChannels: 0, format: 's8', clip: 0.95 },
  { K: 384, groupSize: 128, outlierChannels: 128, format: 's4_e4m3', clip: 0.9 },
  { K: 1500, groupSize: 0, outlierChannels: 3, format: 's4_e4m3', clip: 0.01 },
  { K: 1, groupSize: 0, outlierChannels: 0, format: 'e5m2', clip: 1 },
  { K: 37, groupSize: 0, outlierChannels: 5, format: 'e4m3', clip: 0.5 },
  { K: 384, groupSize: 128, outlierChannels: 128, format: 'e4m3', clip: 1 },
  { K: 1031, groupSize: 0, outlierChannels: 0, format: 'e4m3', clip: 0.01 },
  { K: 1056, groupSize: 96, outlierChannels: 0, format: 'e5m2', clip: 0.9 },
];

export const caseTitle = (c: RowCase): string =>
  `K ${c.K} ${c.format} group ${c.groupSize} outliers ${c.outlierChannels} clip ${c.clip}`;
