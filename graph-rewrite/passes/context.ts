/** What passes share: the model, the plan, and what earlier passes made. */
import { internalError } from '../../ops/common/errors.js';
import type { NodeParts } from '../../ops/define-op.js';
import type { Analysis, InputGroup, LinearSite } from '../analyze/sites.js';
import type { Model, Node, Tensor, Value } from '../ir/index.js';
import type { PackedLinear } from '../pack/linear.js';
import type { Plan, PlanInput } from '../plan/plan.js';

/** A quantized input: codes with their scales. */
export interface Codes {
  readonly q: Value;
  readonly scale: Value;
}

/** Packed weights of a product by its name, for products that are not rounded to nearest. */
export type RoundedWeights = (product: string) => PackedLinear | undefined;

/** The float type of a rewritten node; bfloat16 runs on CUDA alone. */
export type GraphType = 'float32' | 'float16' | 'bfloat16';

export class PassContext {
  /** Quantized inputs by the id of their plan entry. */
  readonly codes = new Map<string, Codes>();
  /** Merged products that are read whole. */
  readonly packed = new Set<string>();
  #pass = '';
  readonly #sites: ReadonlyMap<string, LinearSite>;
  readonly #replaced = new Map<Value, Value>();
  readonly #constants = new Map<Tensor, Value>();

  constructor(
    readonly model: Model,
    readonly analysis: Analysis,
    readonly plan: Plan,
    /** Weights that were rounded before. */
    readonly weights?: RoundedWeights,
  ) {
    this.#sites = new Map(analysis.linears.map((site) => [site.name, site]));
  }

  /** Named in the metadata of every node that is added from now on. */
  begin(pass: string): void {
    this.#pass = pass;
  }

  site(name: string): LinearSite {
    const site = this.#sites.get(name);
    if (!site) throw internalError('passes', `the plan speaks of "${name}", which is no linear layer of the model`);
    return site;
  }

  /**
   * Notes that the node behind some layers will read them as one value, if one product makes them all.
   * @param results of the layers
   * @returns whether one does; the reader is then given the first of them, which that product takes over
   */
  pack(results: readonly Value[]): boolean {
    const products = results.map((value) => {
      const site = this.plan.sites.find((each) => this.site(each.site).y === value);
      return site?.decision === 'quantize' ? site.merge : undefined;
    });
    const [product] = products;
    if (product === undefined || products.some((each) => each !== product)) return false;
    this.packed.add(product);
    return true;
  }

  group(input: PlanInput): InputGroup {
    const site = this.site(input.sites[0]!);
    const group = this.analysis.inputs.find((each) => each.linears.includes(site));
    if (!group) throw internalError('passes', `"${site.name}" has no input group`);
    return group;
  }

  /** The float type that a value is computed in; weights tell it where the graph does not. */
  typeOf(value: Value, site?: LinearSite): GraphType {
    const type = this.analysis.shapes.dtype(value) ?? site?.weight.dtype;
    return type === 'float16' || type === 'bfloat16' ? type : 'float32';
  }

  /** The value that now stands for one that analysis saw. */
  current(value: Value): Value {
    let at = value;
    for (let next = this.#replaced.get(at); next; next = this.#replaced.get(at)) at = next;
    return at;
  }

  /** Lets a new value take the place, the name and the declared type of an old one. */
  replace(from: Value, to: Value): void {
    const { dtype, shape, isGraphOutput } = from;
    from.graph.replaceAllUses(from, to);
    if (!isGraphOutput) to.graph.swapNames(from, to);
    if (dtype) to.dtype = dtype;
    if (shape) to.shape = shape;
    this.#replaced.set(from, to);
  }

  /** Adds a node of ours in front of `before`, with a note of where it comes from. */
  add(
    parts: Pick<NodeParts<Value>, 'opType' | 'domain' | 'inputs'> & Partial<Pick<NodeParts<Value>, 'attributes'>>,
    name: string,
    outputs: readonly (string | undefined)[],
    before: Node,
  ): Node {
    return before.graph.addNode(
      { ...parts, name, outputs, metadata: { 'lowbit.pass': this.#pass, 'lowbit.from': before.name } },
      { before },
    );
  }

  /** A constant of the main graph, which subgraphs see too; the same tensor is stored once. */
  constant(name: string, tensor: Tensor): Value {
    const known = this.#constants.get(tensor);
    if (known) return known;
    const value = this.model.graph.addInitializer(name, tensor);
    this.#constants.set(tensor, value);
    return value;
  }
}

/** Lets nodes that only ask for the shape of a value ask another one that has the same. */
export function moveShapeUses(from: Value, to: Value): void {
  for (const { node, index } of [...from.uses]) if (node.is('Shape')) node.setInput(index, to);
}
