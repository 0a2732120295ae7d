/** Matrix products to compare inside ONNX Runtime on a GPU: ours by recipe, and its own. */
import type { InputSpec, OpSpec } from '../../models/op-model.js';
import type { Data } from './pattern.js';
import { bytes, halves, scales } from './pattern.js';

export interface GemmShape {
  readonly K: number;
  readonly N: number;
}

/** What a run feeds besides constants: `M` stands for the rows. */
export interface Fed {
  readonly name: string;
  readonly dtype: 'float16' | 'int8' | 'float32';
  readonly width: number;
}

export interface GemmScheme {
  readonly name: string;
  readonly spec: OpSpec;
  readonly fed: readonly Fed[];
  /** Bytes of weights and scales. */
  readonly weightBytes: number;
  /** Session configuration. */
  readonly extra?: Record<string, unknown>;
}

const constant = (name: string, dtype: InputSpec['dtype'], dims: number[], data: Data): InputSpec => ({
  ...{ name, dtype, dims },
  constant: data,
});

const fedInput = ({ name, dtype, width }: Fed): InputSpec => ({ name, dtype, dims: ['M', width] });

function scheme(name: string, op: string, fed: Fed[], rest: InputSpec[], N: number, more: Partial<OpSpec>): GemmScheme {
  const spec: OpSpec = {
    ...{ op, inputs: [...fed.map(fedInput), ...rest] },
    outputs: [{ name: 'y', dtype: 'float16', dims: ['M', N] }],
    ...{ attributes: {}, ownConstants: 'equal' },
    ...more,
  };
  return { name, spec, fed, weightBytes: rest.reduce((sum, { constant }) => sum + (constant?.byteLength ?? 0), 0) };
}

function matMul({ K, N }: GemmShape): GemmScheme {
  const x: Fed = { name: 'x', dtype: 'float16', width: K };
  return scheme('MatMul float16', 'MatMul', [x], [constant('w', 'float16', [K, N], halves(K * N))], N, { domain: '' });
}

/** 4 bits without zero points; `fused` asks for the kernels that unpack in the product (`ep.cuda.fpa_intb_gemm`). */
function matMulNBits({ K, N }: GemmShape, block: number, fused: boolean): GemmScheme {
  const blocks = K / block;
  const x: Fed = { name: 'x', dtype: 'float16', width: K };
  const made = scheme(
    `MatMulNBits g${block}${fused ? ' fpA_intB' : ''}`,
    'MatMulNBits',
    [x],
    [
      constant('w', 'uint8', [N, blocks, block / 2], bytes((N * K) / 2)),
      constant('scales', 'float16', [N, blocks], scales(N * blocks)),
    ],
    N,
    { domain: 'com.microsoft', attributes: { K, N, bits: 4, block_size: block } },
  );
  return fused ? { ...made, extra: { ep: { cuda: { fpa_intb_gemm: '1' } } } } : made;
}

interface Ours {
  readonly name: string;
  readonly weight: 's4' | 's8' | 'e2m1';
  readonly group: number;
  readonly activation: 's4' | 's4_e4m3' | 's8' | 'e4m3' | 'none';
  readonly activationGroup: number;
  readonly outliers: number;
}

const ours: readonly Ours[] = [
  { name: 'atom-w4a4', weight: 's4', group: 128, activation: 's4', activationGroup: 128, outliers: 128 },
  { name: 'atom-w4a4 sm90', weight: 's4', group: 128, activation: 's4_e4m3', activationGroup: 128, outliers: 128 },
  { name: 'w8a8', weight: 's8', group: 0, activation: 's8', activationGroup: 0, outliers: 0 },
  { name: 'w4a16', weight: 's4', group: 128, activation: 'none', activationGroup: 0, outliers: 0 },
  { name: 'zeroquant-fp-w4a8', weight: 'e2m1', group: 128, activation: 'e4m3', activationGroup: 0, outliers: 0 },
];

function quantGemm(
  { K, N }: GemmShape,
  { name, weight, group, activation, activationGroup, outliers }: Ours,
): GemmScheme {
  const body = K - outliers;
  const wide = weight === 's8';
  const floats = activation === 'none';
  const activationScales = (activationGroup ? body / activationGroup : 1) + (outliers > 0 ? 1 : 0);
  const a: Fed = { name: 'a', dtype: floats ? 'float16' : 'int8', width: K };
  const aScale: Fed = { name: 'a_scale', dtype: 'float32', width: activationScales };
  const groups = group ? body / group : 1;
  const rowBytes = wide ? body : body / 2;
  const weights: (InputSpec | undefined)[] = [
    constant('b', wide ? 'int8' : 'uint8', [N, rowBytes], bytes(N * rowBytes)),
    constant('b_scale', 'float16', [N, groups], scales(N * groups)),
    outliers ? constant('b_outlier', 'int8', [N, outliers], bytes(N * outliers)) : undefined,
    outliers ? constant('b_outlier_scale', 'float16', [N], scales(N)) : undefined,
    constant('bias', 'float16', [0], new Uint16Array(0)),
  ];
  const fed = floats ? [a] : [a, aScale];
  const made = scheme(
    name,
    'QuantGemm',
    fed,
    weights.filter((each) => each !== undefined),
    N,
    {
      inputs: [...(floats ? [fedInput(a), undefined] : fed.map(fedInput)), ...weights],
      attributes: {
        ...{ K, N, weight_format: weight, group_size: group, a_format: activation, a_group_size: activationGroup },
        outlier_channels: outliers,
      },
    },
  );
  return made;
}

/** Everything that is compared, ONNX Runtime's own first. */
export function gemmSchemes(shape: GemmShape): GemmScheme[] {
  return [
    matMul(shape),
    ...[128, 32].flatMap((block) => [false, true].map((fused) => matMulNBits(shape, block, fused))),
    ...ours.map((each) => quantGemm(shape, each)),
  ];
}
