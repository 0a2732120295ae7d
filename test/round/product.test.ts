import { deepEqual, ok, rejects } from 'node:assert/strict';
import { tensorOf } from '../../graph-rewrite/ir/index.js';
import { packLinear, type PackSpec } from '../../graph-rewrite/pack/linear.js';
import type { Product } from '../../graph-rewrite/plan/index.js';
import { defaultGptq as defaults } from '../../graph-rewrite/recipes/recipe.js';
import { roundProduct } from '../../graph-rewrite/round/product.js';
import { loadNative } from '../../native/js/load.js';
import { Random } from '../helpers/random.js';

const native = loadNative().addon;
/** The scale of round to nearest, so that only the codes can differ. */
const defaultGptq = { ...defaults, scale: 'max/7' } as const;
const random = new Random('gptq products');
const K = 96;
const normals = (count: number) => random.normals('float32', count) as Float32Array;

/** Two layers that share their input, one of them stored as MatMul does, rows and channels in an order of their own. */
function makeProduct(spec: Partial<PackSpec>, first = normals(6 * K)): Product {
  const sources = [
    { weight: tensorOf(first, [6, K]), layout: 'NK' as const, rowOrder: Int32Array.of(5, 3, 4, 0, 2, 1) },
    { weight: tensorOf(normals(K * 10), [K, 10]), layout: 'KN' as const },
  ];
  const full: PackSpec = { format: 's4', groupSize: 0, clip: 1, channelGroup: 1, outlierChannels: 0, ...spec };
  // Rounding looks at names, sources and format only.
  return { name: 'layer', sources, spec: full, K, N: 16 } as unknown as Product;
}

const reversed = Int32Array.from({ length: K }, (_, k) => K - 1 - k);
const specs: Record<string, Partial<PackSpec>> = {
  's4 per channel': {},
  's4 in groups, clipped, row pairs': { groupSize: 32, clip: 0.85, channelGroup: 2 },
  's4 with outliers, reordered': { groupSize: 16, outlierChannels: 32, columnOrder: reversed },
  's8 in groups with outliers': { format: 's8', groupSize: 32, outlierChannels: 32, columnOrder: reversed },
};

const diagonal = () =>
  Float32Array.from({ length: K * K }, (_, i) => (i % (K + 1) === 0 ? 1 + ((i / (K + 1)) % 7) : 0));

/** Σ x·xᵀ of channels that move together. */
function correlated(): Float32Array {
  const mix = normals(K * K);
  const hessian = new Float32Array(K * K);
  for (let i = 0; i < K; i++)
    for (let j = 0; j < K; j++) {
      let sum = i === j ? 1 : 0;
      for (let r = 0; r < 12; r++) sum += mix[i * K + r]! * mix[j * K + r]!;
      hessian[i * K + j] = sum;
    }
  return hessian;
}

describe('rounding a product by GPTQ', () => {
  for (const [name, spec] of Object.entries(specs)) {
    for (const order of ['atom', 'body_desc'] as const) {
      it(`is round to nearest bit for bit when channels are not correlated: ${name}, ${order}`, async () => {
        const product = makeProduct(spec);
        const { parts, record } = await roundProduct(product, diagonal(), { ...defaultGptq, order }, native, 2);
        const nearest = packLinear('layer', product.sources, product.spec);
        for (const part of ['b', 'bScale', 'bOutlier', 'bOutlierScale'] as const)
          deepEqual(parts[part], nearest[part]?.bytes() ?? new Uint8Array(0), part);
        deepEqual(record.gptq!.loss, record.gptq!.nearestLoss);
      });

      it(`loses less than round to nearest when they are: ${name}, ${order}`, async () => {
        const settings = { ...defaultGptq, order };
        const { record } = await roundProduct(makeProduct(spec), correlated(), settings, native, 2);
        const { loss, nearestLoss } = record.gptq!;
        ok(loss < 0.8 * nearestLoss, `${loss} of ${nearestLoss}`);
      });
    }
  }

  it('rounds a smoothed layer as the layer whose weights and inputs were smoothed before', async () => {
    const factors = Float32Array.from({ length: K }, (_, k) => 2 ** ((k % 5) - 2)); // powers of two: exact
    const weights = normals(10 * K);
    const columns = weights.map((value, i) => value * factors[i % K]!);
    const hessian = correlated();
    const scaled = hessian.map((value, i) => value / factors[i % K]! / factors[Math.floor(i / K)]!);
    const productOf = (values: Float32Array, smooth?: Float32Array) => {
      const source = { weight: tensorOf(values, [10, K]), layout: 'NK' as const };
      const sources = [{ ...source, ...(smooth ? { smooth: { columns: smooth } } : {}) }];
      const spec = {
        format: 's4',
        groupSize: 16,
        clip: 1,
        channelGroup: 1,
        outlierChannels: 32,
        columnOrder: reversed,
      };
      return { name: 'layer', sources, spec, smooth, K, N: 10 } as unknown as Product;
    };
    const smoothed = await roundProduct(productOf(weights, factors), hessian, defaultGptq, native, 1);
    const before = await roundProduct(productOf(columns), scaled, defaultGptq, native, 1);
    deepEqual(smoothed.parts, before.parts);
  });

  it('names the layer with a weight that is not finite', async () => {
    const weights = normals(6 * K);
    weights[3 * K + 1] = NaN;
    const work = roundProduct(makeProduct({}, weights), diagonal(), defaultGptq, native, 1);
    await rejects(work, /^LowbitError: layer: the weight of output channel 1 holds NaN/);
  });

  it('names the layer with a Hessian that is not finite', async () => {
    const work = roundProduct(makeProduct({}), diagonal().fill(NaN), defaultGptq, native, 1);
    await rejects(work, /^LowbitError: layer: gptq: Hessian diagonal 0 is nan/);
  });
});
