/**
 * `QuantGemm` beside ONNX Runtime's `MatMulNBits` (4 bits, blocks of 128, accuracy level 4: it quantizes its activations to 8 bits by
 * block) and its float32 `MatMul`, in one process and one run.
 */
import { availableParallelism } from 'node:os';
import { Tensor } from '../native/js/index.js';
import { weightBits } from '../ops/formats/formats.js';
import type { InputSpec, OpSpec } from '../models/op-model.js';
import { timeNodes, type NodeCase, type Timing } from './measure.js';

export interface GemmCase {
  /** Input channels. */
  readonly K: number;
  /** Output channels. */
  readonly N: number;
  /** Rows. */
  readonly M: number;
  readonly threads: number;
}

export interface GemmResult extends GemmCase {
  /** Times by scheme, the peers' included. */
  readonly times: Readonly<Record<string, Timing>>;
}

export const peers = ['MatMulNBits', 'MatMul float32'] as const;

const shapes = [
  { K: 2048, N: 5632 },
  { K: 4096, N: 4096 },
  { K: 384, N: 1024 },
];
const rowCounts = [1, 8, 32, 256];

/** Every case, at one thread and at all. */
export function gemmCases(threadCounts: readonly number[] = [1, availableParallelism()]): GemmCase[] {
  return [...new Set(threadCounts)].flatMap((threads) =>
    shapes.flatMap((shape) => rowCounts.map((M) => ({ ...shape, M, threads }))),
  );
}

/** Numbers without a pattern, repeated every 65521; never zeros, which some kernels run through faster. */
const pattern = ((): Float32Array => {
  let state = 1;
  const next = () => (state = (Math.imul(state, 1664525) + 1013904223) >>> 0) / 2 ** 31 - 1;
  return Float32Array.from({ length: 65521 }, next);
})();

function repeat<T extends Float32Array | Int8Array | Uint8Array>(source: T, into: T): T {
  for (let at = 0; at < into.length; at += source.length) into.set(source.subarray(0, into.length - at), at);
  return into;
}

const noise = (count: number): Float32Array => repeat(pattern, new Float32Array(count));
const codes = (count: number, most: number): Int8Array =>
  repeat(
    Int8Array.from(pattern, (x) => Math.round(x * most)),
    new Int8Array(count),
  );
const bytes = (count: number): Uint8Array => new Uint8Array(codes(count, 127).buffer);
/** float16 bits of 2^-7. */
const halfScales = (count: number): Uint16Array => new Uint16Array(count).fill(0x2000);

const group = 128;
const constant = (
  name: string,
  dtype: InputSpec['dtype'],
  dims: number[],
  data: NonNullable<InputSpec['constant']>,
) => ({
  ...{ name, dtype, dims },
  constant: data,
});

interface Scheme {
  readonly weight: 's4' | 's8' | 'e2m1' | 'e4m3';
  readonly weightGroup: number;
  readonly activation: 's4' | 's8' | 'e4m3' | 'none';
  readonly activationGroup: number;
  readonly outliers: number;
}

/** Our schemes by name. */
export const schemes: Readonly<Record<string, Scheme>> = {
  'W4A4 g128 + 128 outliers': {
    weight: 's4',
    weightGroup: group,
    activation: 's4',
    activationGroup: group,
    outliers: 128,
  },
  'W4A4 g128': { weight: 's4', weightGroup: group, activation: 's4', activationGroup: group, outliers: 0 },
  'W4A8 g128': { weight: 's4', weightGroup: group, activation: 's8', activationGroup: 0, outliers: 0 },
  W8A8: { weight: 's8', weightGroup: 0, activation: 's8', activationGroup: 0, outliers: 0 },
  'W4A8 float g128': { weight: 'e2m1', weightGroup: group, activation: 'e4m3', activationGroup: 0, outliers: 0 },
  'W8A8 float g128': { weight: 'e4m3', weightGroup: group, activation: 'e4m3', activationGroup: 0, outliers: 0 },
  'W4A16 g128': { weight: 's4', weightGroup: group, activation: 'none', activationGroup: 0, outliers: 0 },
};

/** Codes of a format of a byte; for e4m3 even ones, which are numbers. */
function codesOf(format: 's4' | 's8' | 'e2m1' | 'e4m3', count: number): Int8Array {
  const all = codes(count, format === 's4' ? 7 : 127);
  return format === 'e4m3' ? all.map((code) => code & ~1) : all;
}

function ours({ weight, weightGroup, activation, activationGroup, outliers }: Scheme, { K, N, M }: GemmCase): NodeCase {
  const body = K - outliers;
  const floats = activation === 'none';
  const scales = (activationGroup ? body / activationGroup : 1) + (outliers ? 1 : 0);
  const spec: OpSpec = {
    op: 'QuantGemm',
    inputs: [
      { name: 'a', dtype: floats ? 'float32' : 'int8', dims: ['M', K] },
      floats ? undefined : { name: 'a_scale', dtype: 'float32', dims: ['M', scales] },
      weightBits(weight) === 4
        ? constant('b', 'uint8', [N, body / 2], bytes((N * body) / 2))
        : constant('b', 'int8', [N, body], codesOf(weight, N * body)),
      constant(
        'b_scale',
        'float16',
        [N, weightGroup ? body / weightGroup : 1],
        halfScales(N * (weightGroup ? body / weightGroup : 1)),
      ),
      outliers ? constant('b_outlier', 'int8', [N, outliers], codes(N * outliers, 127)) : undefined,
      outliers ? constant('b_outlier_scale', 'float16', [N], halfScales(N)) : undefined,
      constant('bias', 'float32', [0], new Float32Array(0)),
    ],
    outputs: [{ name: 'y', dtype: 'float32', dims: ['M', N] }],
    attributes: {
      ...{ K, N, weight_format: weight, group_size: weightGroup, a_format: activation },
      ...{ a_group_size: activationGroup, outlier_channels: outliers },
    },
    ownConstants: 'different',
  };
  if (floats) return { spec, feeds: { a: new Tensor('float32', noise(M * K), [M, K]) } };
  const a = new Tensor('int8', codesOf(activation, M * K), [M, K]);
  return { spec, feeds: { a, a_scale: new Tensor('float32', noise(M * scales).map(Math.abs), [M, scales]) } };
}

function matMulNBits({ K, N, M }: GemmCase): NodeCase {
  const blocks = K / group;
  return {
    spec: {
      op: 'MatMulNBits',
      domain: 'com.microsoft',
      inputs: [
        { name: 'a', dtype: 'float32', dims: ['M', K] },
        constant('b', 'uint8', [N, blocks, group / 2], bytes((N * K) / 2)),
        constant('b_scale', 'float32', [N, blocks], noise(N * blocks).map(Math.abs)),
      ],
      outputs: [{ name: 'y', dtype: 'float32', dims: ['M', N] }],
      attributes: { K, N, bits: 4, block_size: group, accuracy_level: 4 },
      ownConstants: 'different',
    },
    feeds: { a: new Tensor('float32', noise(M * K), [M, K]) },
  };
}

function matMul({ K, N, M }: GemmCase): NodeCase {
  return {
    spec: {
      op: 'MatMul',
      domain: '',
      inputs: [{ name: 'a', dtype: 'float32', dims: ['M', K] }, constant('b', 'float32', [K, N], noise(N * K))],
      outputs: [{ name: 'y', dtype: 'float32', dims: ['M', N] }],
      attributes: {},
      ownConstants: 'different',
    },
    feeds: { a: new Tensor('float32', noise(M * K), [M, K]) },
  };
}

/** Enough nodes to time, as long as their 4-bit weights fit a third-level cache of 32 MB. */
function copiesFor({ K, N, M }: GemmCase): number {
  const cached = Math.floor(20e6 / (K * N * 0.53));
  const work = Math.ceil(2e8 / (K * N * M));
  return Math.max(2, Math.min(cached, work, 48));
}

/** Times one shape in every scheme and both peers. */
export async function benchGemm(one: GemmCase, samples: number): Promise<GemmResult> {
  const names = [...Object.keys(schemes), ...peers];
  const cases = [...Object.values(schemes).map((scheme) => ours(scheme, one)), matMulNBits(one), matMul(one)];
  const times = await timeNodes(cases, { copies: copiesFor(one), threads: one.threads, samples });
  return { ...one, times: Object.fromEntries(names.map((name, i) => [name, times[i]!])) };
}
