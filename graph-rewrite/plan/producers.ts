/** Decides what quantizes the rows in front of a batch of layers, and how their channels get into order. */
import { usedOnlyBy } from '../analyze/activations.js';
import type {
  ActSite,
  Analysis,
  AttentionSite,
  CachedAttention,
  GateSite,
  LinearSite,
  NormSite,
} from '../analyze/sites.js';
import type { Node, Value } from '../ir/index.js';
import type { InputDecision, Reorder } from './plan.js';
import type { Batch } from './resolve-sites.js';

export interface ProducerDecision {
  readonly decision: InputDecision;
  readonly producer?: string;
  readonly reorder: Reorder;
  readonly residual?: boolean;
  readonly floatOutput?: boolean;
  /** Layers whose rows take the order of this input. */
  readonly folded: readonly LinearSite[];
  readonly notes: readonly string[];
}

/** What the decisions so far have claimed. */
export interface Claims {
  /** Layers that are quantized (only their rows can be permuted). */
  readonly quantized: ReadonlySet<LinearSite>;
  /** Norms, gates and activations that already quantize for a batch. */
  readonly producers: Set<Node>;
  /** Residual Adds that a norm has taken over. */
  readonly adds: Set<Node>;
  /** Attentions whose cache is quantized. */
  readonly caches: ReadonlyMap<AttentionSite, CachedAttention>;
}

/** @param ordered whether the recipe wants the channels of this input in another order */
export function decideProducer(batch: Batch, ordered: boolean, analysis: Analysis, claims: Claims): ProducerDecision {
  const { producer } = batch.group;
  const { format, threshold } = batch.settings.activation;
  if (format === 'none' || threshold) return { decision: 'float', reorder: 'none', folded: [], notes: [] };
  const separate = (...notes: string[]): ProducerDecision => ({
    decision: 'quantize',
    reorder: ordered ? 'gather' : 'none',
    folded: [],
    notes,
  });
  switch (producer.kind) {
    case 'norm':
      return claims.producers.has(producer.norm.node)
        ? separate('its norm already quantizes for other layers')
        : decideNorm(batch, producer.norm, ordered, analysis, claims);
    case 'gate':
      return decideGate(batch, producer.gate, ordered, analysis, claims, separate);
    case 'act':
      return decideAct(batch, producer.act, ordered, analysis, claims, separate);
    case 'attention':
      return decideAttention(batch, producer.attention, ordered, claims, separate);
    default:
      return separate();
  }
}

function decideNorm(
  batch: Batch,
  norm: NormSite,
  ordered: boolean,
  analysis: Analysis,
  claims: Claims,
): ProducerDecision {
  claims.producers.add(norm.node);
  const add = norm.x.producer;
  const residual = norm.residual
    ? analysis.shapes.sameShape(norm.x, norm.residual)
    : add !== undefined && !claims.adds.has(add) && isResidualAdd(add, norm, analysis);
  if (residual && !norm.residual) claims.adds.add(add!);
  const floatOutput = neededElsewhere(norm.y, batch);
  return {
    decision: 'fuse-norm',
    producer: norm.name,
    reorder: ordered ? 'gather' : 'none',
    ...(residual ? { residual } : {}),
    ...(floatOutput ? { floatOutput } : {}),
    folded: [],
    notes: norm.residual && !residual ? ['the residual may broadcast, so it is added in front of the norm'] : [],
  };
}

/** Whether a node adds two plain values of one shape: then the norm behind it can add them itself. */
function isResidualAdd(add: Node, norm: NormSite, { shapes }: Analysis): boolean {
  const [a, b] = [add.input(0), add.input(1)];
  return (
    add.is('Add') &&
    add.graph === norm.graph &&
    a !== undefined &&
    b !== undefined &&
    !a.constant() &&
    !b.constant() &&
    shapes.sameShape(a, b)
  );
}

/** Whether anything but the batch's layers needs a value (asking for its shape does not). */
export function neededElsewhere(value: Value, batch: Batch): boolean {
  const own = new Set(batch.members.flatMap(({ site }) => site.nodes));
  const needed = (at: Value): boolean =>
    at.isGraphOutput ||
    at.uses.some(({ node }) => {
      if (node.is('Shape')) return false;
      // Rows that a layer flattens for itself may have other readers.
      return node.is('Reshape') || node.is('Identity') ? needed(node.output(0)!) : !own.has(node);
    });
  return needed(value);
}

type Separate = (...notes: string[]) => ProducerDecision;

function decideGate(
  batch: Batch,
  gate: GateSite,
  ordered: boolean,
  { linears, shapes }: Analysis,
  claims: Claims,
  separate: Separate,
): ProducerDecision {
  if (claims.producers.has(gate.node)) return separate('its gate already quantizes for other layers');
  if (neededElsewhere(gate.y, batch)) return separate(`"${gate.y.name}" is also needed in float`);
  const folded = [gate.gate, gate.up].map((value) => linears.find((site) => site.y === value));
  const [a, b] = folded;
  const twins = a !== undefined && b !== undefined && a.x === b.x && a.N === b.N;
  if (!twins && !shapes.sameShape(gate.gate, gate.up)) return separate('gate and up are not certainly of one shape');
  const obstacle = ordered ? foldObstacle(gate, [gate.gate, gate.up], folded, claims) : undefined;
  if (obstacle) return separate(`its order is gathered at run time: ${obstacle}`);
  claims.producers.add(gate.node);
  return {
    ...{ decision: 'fuse-gate', producer: gate.name, notes: [] },
    reorder: ordered ? 'fold' : 'none',
    folded: ordered ? (folded as LinearSite[]) : [],
  };
}

function decideAct(
  batch: Batch,
  act: ActSite,
  ordered: boolean,
  { linears }: Analysis,
  claims: Claims,
  separate: Separate,
): ProducerDecision {
  if (claims.producers.has(act.node)) return separate('its activation already quantizes for other layers');
  if (neededElsewhere(act.y, batch)) return separate(`"${act.y.name}" is also needed in float`);
  const into = linears.find((site) => site.y === act.x);
  const obstacle = ordered ? foldObstacle(act, [act.x], [into], claims) : undefined;
  if (obstacle) return separate(`its order is gathered at run time: ${obstacle}`);
  claims.producers.add(act.node);
  return {
    ...{ decision: 'fuse-act', producer: act.name, notes: [] },
    reorder: ordered ? 'fold' : 'none',
    folded: ordered ? [into!] : [],
  };
}

function decideAttention(
  batch: Batch,
  attention: AttentionSite,
  ordered: boolean,
  claims: Claims,
  separate: Separate,
): ProducerDecision {
  const y = claims.caches.get(attention)?.y;
  if (!y || y !== batch.group.input) return separate();
  if (claims.producers.has(attention.node)) return separate('its attention already quantizes for other layers');
  if (neededElsewhere(y, batch)) return separate(`"${y.name}" is also needed in float`);
  claims.producers.add(attention.node);
  return {
    ...{ decision: 'fuse-attention', producer: attention.name, notes: [], folded: [] },
    reorder: ordered ? 'gather' : 'none',
  };
}

/** Why the channels between layers and an elementwise function cannot simply change places. */
function foldObstacle(
  site: GateSite | ActSite,
  values: readonly Value[],
  makers: readonly (LinearSite | undefined)[],
  claims: Claims,
): string | undefined {
  for (const [i, value] of values.entries()) {
    const maker = makers[i];
    if (!maker) return `"${value.name}" does not come straight from a linear layer`;
    if (!claims.quantized.has(maker)) return `${maker.name} stays float`;
    if (!usedOnlyBy(value, site.nodes)) return `"${value.name}" is used outside of ${site.name}`;
  }
  const inside = site.nodes.filter((node) => node !== site.node);
  const leak = inside.flatMap((node) => node.outputs).find((value) => value && !usedOnlyBy(value, site.nodes));
  return leak ? `"${leak.name}" is used outside of ${site.name}` : undefined;
}
