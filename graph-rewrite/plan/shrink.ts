/**
 * Fits outlier channels and groups into a layer. The rule: at most a third of the channels are outliers, and both numbers are multiples
 * of 16; a group must divide what is left of the row, and if no multiple of 16 up to the wished size does, the row is one group.
 */

export interface Fitted {
  readonly outlierChannels: number;
  readonly groupSize: number;
  /** What was changed, for the plan. */
  readonly notes: readonly string[];
}

const unit = 16;

/**
 * @param K input channels of the layer
 * @param outliers outlier channels asked for, 0 for none
 * @param group group size asked for, 0 for the whole row
 */
export function fit(K: number, outliers: number, group: number): Fitted {
  const notes: string[] = [];
  const most = Math.floor(K / 3 / unit) * unit;
  const outlierChannels = Math.min(Math.floor(outliers / unit) * unit, most);
  if (outlierChannels !== outliers)
    notes.push(
      `${outliers} outlier channels became ${outlierChannels} (a multiple of ${unit}, at most a third of ${K})`,
    );
  const body = K - outlierChannels;
  const groupSize = fitGroup(body, group);
  if (groupSize !== group)
    notes.push(`group ${group} became ${groupSize || 'the whole row'} (a multiple of ${unit} that divides ${body})`);
  return { outlierChannels, groupSize, notes };
}

/** Largest multiple of 16 up to `group` that divides `body`; 0 (the whole row) if there is none. */
function fitGroup(body: number, group: number): number {
  if (group > 0 && body % group === 0) return group;
  for (let size = Math.floor(group / unit) * unit; size >= unit; size -= unit) if (body % size === 0) return size;
  return 0;
}
