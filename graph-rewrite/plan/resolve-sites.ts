/** The first half of planning: what the recipe says about every layer, and which layers are quantized alike at their input. */
import type { Analysis, InputGroup, LinearSite } from '../analyze/sites.js';
import type { Recipe, SiteSettings } from '../recipes/recipe.js';
import { resolveSite } from '../recipes/resolve.js';
import type { KeptSite } from './plan.js';

/** Layers that read one input and want it quantized in one way. */
export interface Batch {
  readonly id: string;
  readonly group: InputGroup;
  readonly settings: SiteSettings;
  readonly members: readonly Member[];
}

export interface Member {
  readonly site: LinearSite;
  readonly settings: SiteSettings;
}

const inputKey = ({ activation, outliers, smooth }: SiteSettings): string =>
  JSON.stringify([activation, outliers, smooth]);

/** Splits sites into batches and kept ones. */
export function resolveSites(
  analysis: Analysis,
  recipe: Recipe,
): { batches: Batch[]; kept: Map<LinearSite, KeptSite> } {
  const kept = new Map<LinearSite, KeptSite>();
  const settings = new Map<LinearSite, SiteSettings>();
  for (const site of analysis.linears) {
    const resolution = resolveSite(recipe, { name: site.name, role: site.role, layer: site.layer });
    if (resolution.keep !== undefined) kept.set(site, keep(site, resolution.keep, true));
    else if (!site.quantizable) kept.set(site, keep(site, site.reason ?? 'cannot be quantized', false));
    else settings.set(site, resolution);
  }
  const batches = analysis.inputs.flatMap((group) => {
    const members = group.linears.flatMap((site) => {
      const own = settings.get(site);
      return own ? [{ site, settings: own }] : [];
    });
    const ways = new Map<string, Member[]>();
    for (const member of members) {
      const key = inputKey(member.settings);
      ways.set(key, [...(ways.get(key) ?? []), member]);
    }
    // The largest batch gets the fused producer: it comes first.
    return [...ways.values()]
      .sort((a, b) => b.length - a.length)
      .map((batch, number) => ({
        id: uniqueId(group, number),
        ...{ group, settings: batch[0]!.settings, members: batch },
      }));
  });
  const taken = new Map<string, number>();
  return {
    kept,
    batches: batches.map((batch) => {
      const seen = taken.get(batch.id) ?? 0;
      taken.set(batch.id, seen + 1);
      return seen === 0 ? batch : { ...batch, id: `${batch.id}@${seen + 1}` };
    }),
  };
}

const uniqueId = (group: InputGroup, number: number): string =>
  number === 0 ? group.input.name : `${group.input.name}#${number + 1}`;

/** A layer that stays float. */
export function keep(site: LinearSite, reason: string, expected: boolean): KeptSite {
  return { ...describeSite(site), decision: 'keep', reason, expected };
}

/** The fields that every plan entry of a layer starts with. */
export function describeSite(site: LinearSite): Pick<KeptSite, 'site' | 'role' | 'layer' | 'K' | 'N'> {
  return {
    site: site.name,
    role: site.role,
    ...(site.layer === undefined ? {} : { layer: site.layer }),
    ...{ K: site.K, N: site.N },
  };
}
