/** Facts about a model: every linear layer, what stands in front of it, and what it is in the network. */
import type { Graph, Model, Value } from '../ir/index.js';
import { findActivations } from './activations.js';
import { findAttentions, indexLinears } from './attention.js';
import { findLinears, rowSource } from './linears.js';
import { findNorms } from './norms.js';
import { findCaches } from './kv-cache.js';
import { assignRoles } from './assign-roles.js';
import { Shapes } from './shapes.js';
import type {
  ActSite,
  Analysis,
  AttentionSite,
  GateSite,
  InputGroup,
  LinearSite,
  NormSite,
  Producer,
} from './sites.js';
import type { Rejection } from '../match/pattern.js';

export { roles } from './sites.js';
export type * from './sites.js';
export { Shapes } from './shapes.js';
export { rowSource } from './linears.js';
export { usedOnlyBy } from './activations.js';

/**
 * Finds all sites of a model, in every graph of it. Reads the graph and small constants, no weights; changes nothing.
 */
export function analyze(model: Model): Analysis {
  const shapes = new Shapes(model);
  const linears: LinearSite[] = [];
  const norms: NormSite[] = [];
  const gates: GateSite[] = [];
  const acts: ActSite[] = [];
  const misses: Rejection[] = [];
  const graphs = [...model.walkGraphs()];
  for (const graph of graphs) {
    const norm = findNorms(graph, shapes);
    const activation = findActivations(graph);
    linears.push(...findLinears(graph, shapes));
    norms.push(...norm.norms);
    gates.push(...activation.gates);
    acts.push(...activation.acts);
    misses.push(...norm.misses, ...activation.misses);
  }
  misses.push(...functionCalls(model));
  const named = uniqueNames(linears);
  const index = indexLinears(named, shapes);
  const attentions = graphs.flatMap((graph) => findAttentions(graph, index, shapes));
  const caches = findCaches(attentions, shapes);
  const inputs = groupInputs(named, { norms, gates, acts, attentions }, shapes);
  assignRoles(named, inputs, attentions, gates, acts, shapes);
  misses.sort((a, b) => b.matched - a.matched);
  return { linears: named, norms, gates, acts, attentions, caches, inputs, nearMisses: misses, shapes };
}

/** Calls of model-local functions: what is inside is not looked at, and whoever finds no layers should know. */
function functionCalls(model: Model): Rejection[] {
  const functions = new Set(model.functions.map(({ domain, name }) => `${domain ?? ''}:${name ?? ''}`));
  if (functions.size === 0) return [];
  const reason = 'is a call of a model-local function, whose layers are not looked at (inline functions first)';
  return [...model.walkGraphs()].flatMap(({ nodes }) =>
    nodes
      .filter((node) => functions.has(`${node.domain}:${node.opType}`))
      .map((node) => ({ pattern: 'linear layer', reason, node, matched: Infinity })),
  );
}

/** Plans speak of sites by name: numbers those that share one (branches of an If may). */
function uniqueNames(sites: readonly LinearSite[]): LinearSite[] {
  const taken = new Set<string>();
  return sites.map((site) => {
    let name = site.name;
    for (let number = 2; taken.has(name); number++) name = `${site.name}#${number}`;
    taken.add(name);
    return name === site.name ? site : { ...site, name };
  });
}

interface Producers {
  readonly norms: readonly NormSite[];
  readonly gates: readonly GateSite[];
  readonly acts: readonly ActSite[];
  readonly attentions: readonly AttentionSite[];
}

/** Groups quantizable layers by the rows they read, in the order of their first layer. */
function groupInputs(linears: readonly LinearSite[], producers: Producers, shapes: Shapes): InputGroup[] {
  const groups = new Map<Graph, Map<Value, LinearSite[]>>();
  for (const site of linears) {
    if (!site.quantizable) continue;
    const source = rowSource(site.x, shapes);
    const ofGraph = groups.get(site.graph) ?? new Map<Value, LinearSite[]>();
    groups.set(site.graph, ofGraph.set(source, [...(ofGraph.get(source) ?? []), site]));
  }
  return [...groups].flatMap(([graph, ofGraph]) =>
    [...ofGraph].map(([input, sites]) => ({
      ...{ input, graph, K: sites[0]!.K, linears: sites },
      producer: producerOf(input, graph, sites, producers),
    })),
  );
}

function producerOf(input: Value, graph: Graph, sites: readonly LinearSite[], all: Producers): Producer {
  const here = <T extends { readonly y: Value; readonly graph: Graph }>(list: readonly T[]) =>
    list.find((site) => site.y === input && site.graph === graph);
  const norm = here(all.norms);
  if (norm) return { kind: 'norm', norm };
  const gate = here(all.gates);
  if (gate) return { kind: 'gate', gate };
  const act = here(all.acts);
  if (act) return { kind: 'act', act };
  const attention = all.attentions.find((each) => each.o && sites.includes(each.o));
  return attention ? { kind: 'attention', attention } : { kind: 'other' };
}
