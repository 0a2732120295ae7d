/** Gives every layer its role and its block number. */
import type { Value } from '../ir/index.js';
import { rowSource } from './linears.js';
import { layerByName, roleByName } from './roles.js';
import type { Shapes } from './shapes.js';
import type { ActSite, AttentionSite, GateSite, InputGroup, LinearSite, Role } from './sites.js';

/** Fills in `role` and `layer`: names first, structure where names say nothing. */
export function assignRoles(
  linears: readonly LinearSite[],
  inputs: readonly InputGroup[],
  attentions: readonly AttentionSite[],
  gates: readonly GateSite[],
  acts: readonly ActSite[],
  shapes: Shapes,
): void {
  const structural = rolesByStructure(linears, attentions, gates, acts, shapes);
  for (const site of linears) {
    const role = structural.get(site);
    // Structure knows what a layer does; names know layers whose surroundings are strange.
    site.role = role && !(role === 'fc1' || role === 'fc2') ? role : (roleByName(site) ?? role ?? 'other');
  }
  assignLayers(linears, inputs, attentions);
}

function rolesByStructure(
  linears: readonly LinearSite[],
  attentions: readonly AttentionSite[],
  gates: readonly GateSite[],
  acts: readonly ActSite[],
  shapes: Shapes,
): Map<LinearSite, Role> {
  const found = new Map<LinearSite, Role>();
  const set = (site: LinearSite | undefined, role: Role) => {
    if (site && !found.has(site)) found.set(site, role);
  };
  const byOutput = new Map(linears.map((site) => [site.y, site]));
  const maker = (value: Value) => byOutput.get(value) ?? byOutput.get(rowSource(value, shapes));
  const readers = (value: Value) => linears.filter((site) => rowSource(site.x, shapes) === value);
  for (const { q, k, v, o } of attentions) {
    if (q && (q === k || q === v)) set(q, 'qkv_proj');
    else
      for (const [site, role] of [
        [q, 'q_proj'],
        [k, 'k_proj'],
        [v, 'v_proj'],
      ] as const)
        set(site, role);
    set(o, 'o_proj');
  }
  for (const gate of gates) {
    const [gating, up] = [maker(gate.gate), maker(gate.up)];
    if (!gating || !up) continue;
    set(gating, 'gate_proj');
    set(up, 'up_proj');
    for (const site of readers(gate.y)) set(site, 'down_proj');
  }
  for (const act of acts) {
    const into = maker(act.x);
    const out = readers(act.y);
    if (!into || out.length === 0) continue;
    set(into, 'fc1');
    for (const site of out) set(site, 'fc2');
  }
  // What callers read as scores over a vocabulary: the last layer, wider than its input, with nothing after it.
  for (const site of linears) if (reachesOutput(site.y) && site.N > site.K) set(site, 'lm_head');
  return found;
}

/** Whether a value is a graph output, possibly after a Cast, a Reshape, scaling or a soft cap. */
function reachesOutput(value: Value): boolean {
  for (let at: Value | undefined = value, hops = 0; at && hops < 6; hops++) {
    if (at.isGraphOutput) return true;
    const next: Value['uses'][number] | undefined = at.uses.length === 1 ? at.uses[0] : undefined;
    if (!next || !/^(Cast|Reshape|Identity|Mul|Div|Tanh|Squeeze)$/.test(next.node.opType)) return false;
    at = next.node.output(0);
  }
  return false;
}

/** Block numbers from names, or by counting attention blocks in graph order. */
function assignLayers(
  linears: readonly LinearSite[],
  inputs: readonly InputGroup[],
  attentions: readonly AttentionSite[],
): void {
  const starts = new Set(
    attentions.flatMap(({ q, k, v }) => {
      const group = inputs.find((each) => each.linears.some((site) => site === q || site === k || site === v));
      return group?.linears[0] ?? q ?? [];
    }),
  );
  let layer = -1;
  for (const site of linears) {
    if (starts.has(site)) layer++;
    const number =
      layerByName(site) ?? (site.role === 'lm_head' || site.role === 'other' || layer < 0 ? undefined : layer);
    if (number !== undefined) site.layer = number;
  }
}
