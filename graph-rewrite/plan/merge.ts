/** Which layers of one input become one product. */
import { attentionRows } from '../analyze/attention-rows.js';
import { readsAlone } from '../analyze/activations.js';
import type { AttentionSite, GateSite, LinearSite, Role } from '../analyze/sites.js';
import type { Value } from '../ir/index.js';
import type { Recipe } from '../recipes/recipe.js';
import { lorcSettings } from '../recipes/resolve.js';
import type { Claims } from './producers.js';
import type { Batch, Member } from './resolve-sites.js';

/**
 * Names of merged products, by layer.
 *
 * Gate and up are read together by what follows, so one product for both is free. So are q, k and v where attention reads them side by side;
 * elsewhere they would have to be split again: on the CPU that costs what one product saves (hidden 384 … 2048, 1 … 256 rows: no
 * difference), so `auto` leaves them apart. A low-rank term of one product would be shared by its layers, so `auto` leaves those apart too.
 */
export function decideMerges(
  batch: Batch,
  recipe: Recipe,
  fusedGates: readonly GateSite[],
  attentions: readonly AttentionSite[],
  caches: Claims['caches'],
): Map<LinearSite, string> {
  const merged = new Map<LinearSite, string>();
  const maker = (value: Value) => batch.members.find(({ site }) => site.y === value);
  if (recipe.merge.gateUp)
    for (const gate of fusedGates.filter(readsAlone))
      join([gate.gate, gate.up].map(maker), ['gate_proj', 'up_proj'], 'gate_up_proj', merged);
  if (recipe.merge.qkv === true)
    join(
      heads.map((role) => batch.members.find(({ site }) => site.role === role)),
      heads,
      'qkv_proj',
      merged,
    );
  if (recipe.merge.qkv === 'auto' && batch.members.every(({ settings }) => !lorcSettings(settings)))
    for (const attention of attentions)
      join((attentionRows(attention, caches.get(attention)) ?? []).map(maker), heads, 'qkv_proj', merged);
  return merged;
}

const heads: readonly Role[] = ['q_proj', 'k_proj', 'v_proj'];

/** @param roles of the parts, which tell their order in the product */
function join(
  parts: readonly (Member | undefined)[],
  roles: readonly Role[],
  suffix: string,
  merged: Map<LinearSite, string>,
): void {
  const all = parts.filter((part) => part !== undefined);
  const [first] = all;
  if (!first || all.length !== roles.length || all.some(({ site }, i) => site.role !== roles[i])) return;
  const keyOf = ({ settings: { weight, lorc } }: Member): string => JSON.stringify([weight, lorc]);
  if (all.some((part) => keyOf(part) !== keyOf(first))) return;
  // A pair of rows with one scale must not straddle two layers.
  if (all.slice(0, -1).some(({ site, settings }) => site.N % settings.weight.channelGroup !== 0)) return;
  // Rows must come out alike: all as [.., N] of the shared input, or all flattened.
  if (new Set(all.map(({ site }) => site.x)).size !== 1) return;
  const name = `${first.site.name}+${suffix}`;
  for (const { site } of all) merged.set(site, name);
}
