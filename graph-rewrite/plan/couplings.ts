/**
 * Orders and smoothing factors of an input are folded into the rows of the layers in front of it. People edit plans; where such a layer is kept in
 * float, or its rows are left out, the model would run and be wrong.
 */
import { usageError } from '../../ops/common/errors.js';
import type { Analysis, LinearSite, Producer } from '../analyze/sites.js';
import type { Plan, PlanInput, QuantizedSite } from './plan.js';

const hint = 'Undo the edit, or keep the layer by an override of the recipe and make the plan anew.';

/** @throws usage error that names the entry whose counterpart is missing */
export function checkCouplings(plan: Plan, analysis: Analysis): void {
  const sites = new Map(plan.sites.flatMap((site) => (site.decision === 'quantize' ? [[site.site, site]] : [])));
  const folded = new Set<string | undefined>();
  for (const input of plan.inputs) checkInput(input, sites, analysis, folded);
  for (const { site, rowOrder, rowSmooth } of sites.values())
    for (const rows of [rowOrder, rowSmooth])
      if (rows !== undefined && !folded.has(`${site} ${rows}`))
        throw usageError(`plan: site "${site}"`, 'its rows are changed for an input that does not say so', hint);
}

/** @param folded takes the rows that belong to the input */
function checkInput(
  input: PlanInput,
  sites: ReadonlyMap<string, QuantizedSite>,
  { inputs, linears }: Analysis,
  folded: Set<string | undefined>,
): void {
  const at = `plan: input "${input.id}"`;
  const reads = ({ name }: LinearSite): boolean => sites.get(name)?.input === input.id;
  const group = inputs.find((each) => each.linears.some(reads));
  if (!group) {
    const harmless =
      /^(none|gather)$/.test(input.reorder) && !input.smooth && ['quantize', 'float'].includes(input.decision);
    if (harmless) return; // nothing comes of it
    throw usageError(at, 'no layer reads it, expected one that is quantized', 'Take it out of the plan too.');
  }
  const { producer } = group;
  /** Takes what a layer in front must do to its rows. */
  const fold = (layer: LinearSite | undefined, part: 'rowOrder' | 'rowSmooth', expected?: string): void => {
    const rows = layer && sites.get(layer.name)?.[part];
    if (!layer || rows === undefined || (expected !== undefined && rows !== expected))
      throw usageError(
        at,
        `its ${part === 'rowOrder' ? 'order' : 'smoothing'} is folded into the rows of "${layer?.name ?? '?'}", whose entry has no ${part} for it`,
        hint,
      );
    folded.add(`${layer.name} ${rows}`);
  };
  const makers = makersOf(producer).map((value) =>
    linears.find((site) => value && (site === value || site.y === value)),
  );
  if (input.reorder === 'fold') for (const layer of makers) fold(layer, 'rowOrder', input.order);
  if (input.reorder === 'fold-heads') fold(makers.at(-1), 'rowOrder');
  if (!input.smooth) return;
  const other = group.linears.find((site) => !reads(site));
  if (other) throw usageError(at, `its channels are divided, and "${other.name}", which reads them, is not told`, hint);
  if (producer.kind !== 'norm') fold(makers.at(-1), 'rowSmooth');
  else if (input.decision !== 'fuse-norm')
    throw usageError(at, `its channels are divided in its norm, and its decision is "${input.decision}"`, hint);
}

/** The layers, or their results, that make the channels; the last is the one that smoothing goes into. */
function makersOf(producer: Producer): readonly (LinearSite | LinearSite['y'] | undefined)[] {
  switch (producer.kind) {
    case 'gate':
      return [producer.gate.gate, producer.gate.up];
    case 'act':
      return [producer.act.x];
    case 'attention':
      return [producer.attention.v];
    default:
      return [];
  }
}
