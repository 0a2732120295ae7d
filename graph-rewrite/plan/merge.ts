/** Which layers of one input become one product. */
import type { GateSite, LinearSite } from '../analyze/sites.js';
import type { Recipe } from '../recipes/recipe.js';
import type { Batch, Member } from './resolve-sites.js';

/**
 * q, k and v are one product only where each alone is too narrow to keep the cores busy: their results have to be split again, which
 * copies them.
 */
const narrow = 512;

/** Names of merged products, by layer. */
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
  const { qkv } = recipe.merge;
  if (qkv === true || (qkv === 'auto' && heads.some((part) => part && part.site.N <= narrow)))
    join(heads, 'qkv_proj', merged);
  return merged;
}

function join(parts: readonly (Member | undefined)[], suffix: string, merged: Map<LinearSite, string>): void {
  const all = parts.filter((part) => part !== undefined);
  const [first] = all;
  if (!first || all.length !== parts.length || new Set(all.map(({ site }) => site)).size !== all.length) return;
  const key = JSON.stringify(first.settings.weight);
  if (all.some(({ settings }) => JSON.stringify(settings.weight) !== key)) return;
  // A pair of rows with one scale must not straddle two layers.
  if (all.slice(0, -1).some(({ site, settings }) => site.N % settings.weight.channelGroup !== 0)) return;
  // Rows must come out alike: all as [.., N] of the shared input, or all flattened.
  if (new Set(all.map(({ site }) => site.x)).size !== 1) return;
  const name = `${first.site.name}+${suffix}`;
  for (const { site } of all) merged.set(site, name);
}
