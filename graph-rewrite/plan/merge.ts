/** Which layers of one input become one product. */
import type { GateSite, LinearSite } from '../analyze/sites.js';
import type { Recipe } from '../recipes/recipe.js';
import type { Batch, Member } from './resolve-sites.js';

/**
 * Names of merged products, by layer.
 *
 * Gate and up are read together by what follows, so one product for both is free. Results of q, k and v would have to be split again: on
 * the CPU that costs what one product saves (hidden 384 … 2048, 1 … 256 rows: no difference), so `auto` leaves them apart.
 */
export function decideMerges(batch: Batch, recipe: Recipe, fusedGates: readonly GateSite[]): Map<LinearSite, string> {
  const merged = new Map<LinearSite, string>();
  if (batch.settings.activation.format === 'none') return merged;
  const member = (role: string) => batch.members.find(({ site }) => site.role === role);
  if (recipe.merge.gateUp) {
    for (const gate of fusedGates) {
      const parts = [gate.gate, gate.up].map((value) => batch.members.find(({ site }) => site.y === value));
      join(parts, 'gate_up_proj', merged);
    }
  }
  const heads = [member('q_proj'), member('k_proj'), member('v_proj')];
  if (recipe.merge.qkv === true) join(heads, 'qkv_proj', merged);
  return merged;
}

function join(parts: readonly (Member | undefined)[], suffix: string, merged: Map<LinearSite, string>): void {
  const all = parts.filter((part) => part !== undefined);
  const [first] = all;
  if (!first || all.length !== parts.length || new Set(all.map(({ site }) => site)).size !== all.length) return;
  const keyOf = ({ settings: { weight, lorc } }: Member): string => JSON.stringify([weight, lorc]);
  if (all.some((part) => keyOf(part) !== keyOf(first))) return;
  // A pair of rows with one scale must not straddle two layers.
  if (all.slice(0, -1).some(({ site, settings }) => site.N % settings.weight.channelGroup !== 0)) return;
  // Rows must come out alike: all as [.., N] of the shared input, or all flattened.
  if (new Set(all.map(({ site }) => site.x)).size !== 1) return;
  const name = `${first.site.name}+${suffix}`;
  for (const { site } of all) merged.set(site, name);
}
