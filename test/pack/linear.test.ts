import { deepEqual, equal, ok, throws } from 'node:assert/strict';
import { roundToFloat16, toFloat16Array } from '../../ops/common/float16.js';
import { packedRowBytes } from '../../ops/formats/formats.js';
import { quantizeWithScale, weightScale } from '../../ops/formats/quantize-segment.js';
import { packS4 } from '../../ops/formats/s4.js';
import { inlineTensor, lazyTensor, type Tensor } from '../../graph-rewrite/ir/tensor.js';
import { packLinear, type PackSpec } from '../../graph-rewrite/pack/linear.js';
import type { WeightSource } from '../../graph-rewrite/pack/rows.js';
import { randomNumbers } from '../../native/js/lm/sample.js';

const base: PackSpec = { format: 's4', groupSize: 0, clip: 1, channelGroup: 1, outlierChannels: 0 };

/** Weight rows [N][K] with a bell-shaped distribution and two strong channels. */
function randomRows(N: number, K: number, seed = 1): number[][] {
  const random = randomNumbers(seed);
  const bell = () => random() + random() + random() - 1.5;
  return Array.from({ length: N }, () =>
    Array.from({ length: K }, (_, k) => Math.fround(bell() * (k % 29 === 3 ? 9 : 1))),
  );
}

function tensorOf(rows: number[][], layout: 'NK' | 'KN', dtype: 'float32' | 'float16' = 'float32'): Tensor {
  const [N, K] = [rows.length, rows[0]!.length];
  const flat =
    layout === 'NK' ? rows.flat() : Array.from({ length: N * K }, (_, i) => rows[i % N]![Math.floor(i / N)]!);
  const dims = layout === 'NK' ? [N, K] : [K, N];
  const data = dtype === 'float32' ? Float32Array.from(flat) : toFloat16Array(flat);
  return inlineTensor(dtype, dims, new Uint8Array(data.buffer));
}

/** Slow and obvious: the rules of ops/formats/README.md on whole arrays. */
function reference(rows: number[][], spec: PackSpec, order?: readonly number[]) {
  const columns = order ?? rows[0]!.map((_, k) => k);
  const ordered = rows.map((row) => Float32Array.from(columns, (k) => row[k]!));
  const K = columns.length;
  const body = K - spec.outlierChannels;
  const group = spec.groupSize || body;
  const codes = new Int8Array(rows.length * body);
  const outliers = new Int8Array(rows.length * spec.outlierChannels);
  const scales: number[] = [];
  const outlierScales: number[] = [];
  ordered.forEach((row, n) => {
    const first = n - (n % spec.channelGroup);
    const sharing = ordered.slice(first, first + spec.channelGroup);
    for (let start = 0; start < body; start += group) {
      const amax = Math.max(...sharing.flatMap((each) => [...each.subarray(start, start + group)].map(Math.abs)));
      const { bits, scale } = amax < 2 ** -100 ? { bits: 0x3c00, scale: 1 } : weightScale(amax, spec.format, spec.clip);
      scales.push(bits);
      const target = codes.subarray(n * body + start, n * body + start + group);
      if (amax >= 2 ** -100) quantizeWithScale(row.subarray(start, start + group), spec.format, scale, target);
    }
    if (spec.outlierChannels > 0) {
      const part = row.subarray(body);
      const { bits, scale } = weightScale(Math.max(...[...part].map(Math.abs)), 's8', 1);
      outlierScales.push(bits);
      quantizeWithScale(part, 's8', scale, outliers.subarray(n * part.length, (n + 1) * part.length));
    }
  });
  return {
    b: spec.format === 's4' ? packS4(codes, rows.length, body) : new Uint8Array(codes.buffer),
    bScale: new Uint8Array(Uint16Array.from(scales).buffer),
    bOutlier: new Uint8Array(outliers.buffer),
    bOutlierScale: new Uint8Array(Uint16Array.from(outlierScales).buffer),
  };
}

function assertPacked(sources: WeightSource[], rows: number[][], spec: PackSpec): void {
  const packed = packLinear('layer', sources, spec);
  const expected = reference(rows, spec, spec.columnOrder && [...spec.columnOrder]);
  const body = rows[0]!.length - spec.outlierChannels;
  deepEqual(packed.b.dims, [rows.length, packedRowBytes(spec.format, body)]);
  deepEqual(packed.bScale.dims, [rows.length, spec.groupSize ? body / spec.groupSize : 1]);
  deepEqual(packed.bScale.bytes(), expected.bScale);
  deepEqual(packed.b.bytes(), expected.b);
  equal(packed.bOutlier === undefined, spec.outlierChannels === 0);
  if (!packed.bOutlier || !packed.bOutlierScale) return;
  deepEqual(packed.bOutlier.bytes(), expected.bOutlier);
  deepEqual(packed.bOutlierScale.bytes(), expected.bOutlierScale);
}

function shuffled(count: number, seed: number): Int32Array {
  const random = randomNumbers(seed);
  const keys = Array.from({ length: count }, random);
  return Int32Array.from(keys.keys()).sort((a, b) => keys[a]! - keys[b]!);
}

describe('packLinear', () => {
  const specs: readonly (readonly [string, Partial<PackSpec>, number, number])[] = [
    ['s4 per channel', {}, 7, 37],
    ['s4 groups', { groupSize: 32 }, 6, 96],
    ['s4 groups with clip and row pairs', { groupSize: 32, clip: 0.85, channelGroup: 2 }, 6, 96],
    ['row pairs of an odd number of rows', { groupSize: 16, channelGroup: 2 }, 5, 48],
    ['s4 groups and outliers', { groupSize: 48, outlierChannels: 16, clip: 0.9 }, 6, 112],
    ['s8 per channel', { format: 's8' }, 5, 33],
    ['s8 groups and outliers', { format: 's8', groupSize: 16, outlierChannels: 32 }, 4, 64],
  ];
  for (const [what, change, N, K] of specs) {
    const rows = randomRows(N, K);
    const spec = { ...base, ...change };
    for (const layout of ['NK', 'KN'] as const) {
      it(`equals the formats' reference: ${what}, weight ${layout}`, () => {
        assertPacked([{ weight: tensorOf(rows, layout), layout }], rows, spec);
        const columnOrder = shuffled(K, 2);
        assertPacked([{ weight: tensorOf(rows, layout), layout }], rows, { ...spec, columnOrder });
      });
    }
  }

  it('puts sources one below the other, each with its own row order', () => {
    const [q, k] = [randomRows(6, 32, 3), randomRows(4, 32, 4)];
    const rowOrder = shuffled(6, 5);
    const rows = [...Array.from(rowOrder, (n) => q[n]!), ...k];
    for (const layout of ['NK', 'KN'] as const) {
      const sources = [
        { weight: tensorOf(q, layout), layout, rowOrder },
        { weight: tensorOf(k, 'NK'), layout: 'NK' as const },
      ];
      assertPacked(sources, rows, { ...base, groupSize: 16, channelGroup: 2 });
    }
  });

  it('reads float16, and tensors without ranges', () => {
    const rows = randomRows(5, 32).map((row) => row.map(roundToFloat16));
    const half = tensorOf(rows, 'KN', 'float16');
    assertPacked([{ weight: half, layout: 'KN' }], rows, base);
    const lazy = lazyTensor('float16', half.dims, () => half.bytes());
    assertPacked([{ weight: lazy, layout: 'KN' }], rows, base);
    const rowOrder = Int32Array.of(4, 0);
    const computed = lazyTensor('float32', [5, 32], () => tensorOf(rows, 'NK').bytes());
    assertPacked([{ weight: computed, layout: 'NK', rowOrder }], [rows[4]!, rows[0]!], base);
  });

  it('crosses slab borders', () => {
    const rows = randomRows(1100, 1024);
    assertPacked([{ weight: tensorOf(rows, 'NK'), layout: 'NK' }], rows, { ...base, groupSize: 128 });
    assertPacked([{ weight: tensorOf(rows, 'KN'), layout: 'KN' }], rows, { ...base, groupSize: 128 });
  });

  it('gives zero groups scale 1 and tiny ones the smallest float16', () => {
    const rows = [new Array<number>(32).fill(0), new Array<number>(32).fill(2 ** -30)];
    const packed = packLinear('layer', [{ weight: tensorOf(rows, 'NK'), layout: 'NK' }], base);
    deepEqual([...new Uint16Array(packed.bScale.bytes().buffer)], [0x3c00, 1]);
    assertPacked([{ weight: tensorOf(rows, 'NK'), layout: 'NK' }], rows, base);
  });

  it('refuses weights that no code can stand for, by layer and output channel', () => {
    const fill = (value: number, n: number) =>
      randomRows(4, 32).map((row, i) => (i === n ? [...row.slice(1), value] : row));
    const pack = (rows: number[][], spec = base) =>
      packLinear('/q_proj/MatMul', [{ weight: tensorOf(rows, 'KN'), layout: 'KN' }], spec).b.bytes();
    throws(() => pack(fill(NaN, 2)), /^LowbitError: \/q_proj\/MatMul: the weight of output channel 2 holds NaN/);
    throws(() => pack(fill(-Infinity, 0)), /output channel 0 holds NaN or infinity/);
    throws(() => pack(fill(NaN, 3), { ...base, outlierChannels: 16 }), /output channel 3 holds NaN/);
    throws(() => pack(fill(1e6, 1)), /output channel 1 needs a scale above 65504/);
  });

  it('reads a layer once when its parts are taken in any order, and nothing before', () => {
    let reads = 0;
    const rows = randomRows(4, 64);
    const weight = lazyTensor('float32', [4, 64], () => (reads++, tensorOf(rows, 'NK').bytes()));
    const packed = packLinear('layer', [{ weight, layout: 'NK' }], { ...base, outlierChannels: 16 });
    equal(reads, 0);
    const b = packed.b.bytes();
    ok(packed.bOutlierScale!.bytes() && packed.bScale.bytes() && packed.bOutlier!.bytes());
    equal(reads, 1);
    deepEqual(packed.b.bytes(), b);
    equal(reads, 2);
  });

  it('shares what is packed from the same weight in the same way', () => {
    const weight = tensorOf(randomRows(4, 32), 'NK');
    const source: WeightSource = { weight, layout: 'NK' };
    const columnOrder = shuffled(32, 1);
    const packed = packLinear('a', [source], { ...base, columnOrder });
    equal(packLinear('b', [{ ...source }], { ...base, columnOrder: columnOrder.slice() }), packed);
    ok(packLinear('b', [source], base) !== packed);
    ok(packLinear('b', [{ ...source, rowOrder: Int32Array.of(0, 1) }], { ...base, columnOrder }) !== packed);
  });
});
