import { createHash } from 'node:crypto';
import { availableParallelism } from 'node:os';
import { join } from 'node:path';
import { internalError } from '../../ops/common/errors.js';
import type { Analysis } from '../analyze/sites.js';
import type { Model } from '../ir/model.js';
import type { CreateSession, Feeds, OnProgress } from '../lm/session.js';
import { throwIfAborted } from '../lm/session.js';
import type { RoundedWeights } from '../passes/index.js';
import {
  hessianGroups,
  listProducts,
  roundingPasses,
  type HessianGroup,
  type Plan,
  type Product,
} from '../plan/index.js';
import { gptqSettings } from '../recipes/index.js';
import { collectHessians } from './hessians.js';
import { Ledger } from './ledger.js';
import { roundProduct, type RoundingFunctions } from './product.js';
import { quantizeBefore } from './sequential.js';
import { RoundingStore, type RoundedLayer } from './store.js';

export interface RoundOptions {
  /** Reads the float model; every pass changes a copy of its own. */
  readonly load: () => Model;
  readonly analysis: Analysis;
  readonly plan: Plan;
  /** Calibration data; gone through once a pass, so not at all without GPTQ. */
  readonly feeds: Iterable<Feeds>;
  /** How many feeds there are, for progress. */
  readonly total?: number;
  readonly createSession: CreateSession;
  readonly native: RoundingFunctions;
  /** Where rounded layers are put, in a folder of their own for every plan and calibration. */
  readonly folder: string;
  /** Default: as many as the machine has. */
  readonly threads?: number;
  readonly onProgress?: OnProgress | undefined;
  readonly signal?: AbortSignal | undefined;
}

export interface Rounded {
  /** For `applyPlan`. The tensors read the files in `folder`, which must stay until the model is saved. */
  readonly weights: RoundedWeights;
  /** One per product, in plan order. */
  readonly layers: readonly RoundedLayer[];
  /** What was written; may be removed when the model is saved. */
  readonly folder: string;
}

/**
 * Makes the weights that take more than the packer: those that the plan gives to GPTQ (Frantar et al., arXiv 2210.17323; order and outlier block as in Atom, arXiv
 * 2310.19102), and low-rank terms.
 *
 * Goes over the calibration data in passes: each collects the Hessians that fit into the recipe's memory, rounds what they are for, and
 * drops them. Rounded layers are files, so that an interrupted call goes on where it was when it is made again.
 */
export async function roundWeights(options: RoundOptions): Promise<Rounded> {
  const { analysis, plan, signal, onProgress } = options;
  const settings = gptqSettings(plan.recipe);
  const siteOf = new Map(analysis.linears.map((site) => [site.name, site]));
  const products = listProducts(plan, (name) => {
    const site = siteOf.get(name);
    if (!site) throw internalError('gptq', `the plan speaks of "${name}", which is no linear layer of the model`);
    return site;
  }).filter((product) => product.rounding === 'gptq' || product.spec.lorc);
  const store = new RoundingStore(join(options.folder, keyOf(plan, options.feeds)));
  const ledger = new Ledger(products, store);
  const threads = options.threads ?? availableParallelism();
  const round = async (product: Product, hessian: Float32Array | undefined): Promise<void> => {
    throwIfAborted(signal, 'rounding');
    if (ledger.has(product)) return;
    const { parts, record } = await roundProduct(product, hessian, settings, options.native, threads);
    ledger.add(product, parts, record);
    onProgress?.({ stage: 'rounding', done: ledger.layers.length, total: ledger.total, detail: product.name });
  };
  for (const product of products) if (product.rounding === 'rtn') await round(product, undefined);
  const passes = roundingPasses(
    hessianGroups(products).filter((group) => !group.products.every((product) => ledger.has(product))),
    settings,
  );
  for (const [number, pass] of passes.entries()) {
    const model = options.load();
    if (settings.hessian === 'sequential') quantizeBefore(pass, model, plan, ledger.weights);
    const hessians = await collect(model, pass, `pass ${number + 1} of ${passes.length}`, options);
    for (const [i, group] of pass.entries()) {
      for (const product of group.products) await round(product, hessians[i]!);
      hessians[i] = new Float32Array(0); // the next product has its memory
    }
  }
  return { weights: ledger.weights, folder: store.folder, layers: ledger.layers };
}

async function collect(
  model: Model,
  pass: readonly HessianGroup[],
  detail: string,
  { feeds, total = 0, createSession, onProgress, signal }: RoundOptions,
): Promise<Float32Array[]> {
  return collectHessians({
    ...{ model, targets: pass, feeds, createSession, signal },
    onRun: (done) => onProgress?.({ stage: 'hessians', done, total: Math.max(total, done), detail }),
  });
}

/** Recognizes a plan with its calibration data: what is rounded for one is no use to another. */
function keyOf({ model, inputs, sites, recipe }: Plan, feeds: Iterable<Feeds>): string {
  const hash = createHash('sha256');
  const { percdamp, order, scale, hessian } = gptqSettings(recipe);
  hash.update(JSON.stringify([model.sha256, inputs, sites, percdamp, order, scale, hessian]));
  for (const feed of feeds) {
    for (const [name, { type, dims, data }] of Object.entries(feed)) {
      hash.update(JSON.stringify([name, type, dims]));
      const { buffer, byteOffset, byteLength } = data as Float32Array;
      hash.update(new Uint8Array(buffer, byteOffset, byteLength));
    }
  }
  return hash.digest('hex').slice(0, 16);
}
