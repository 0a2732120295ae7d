/** Every kernel of QuantKvAttention: codes exactly the reference's, output near float64 attention over the dequantized cache. */
import assert from 'node:assert/strict';
import { Tensor } from '../../native/js/index.js';
import { quantize } from '../../ops/quantize/reference.js';
import { quantKvAttention, type KvCache } from '../../ops/quant-kv-attention/reference.js';
import { kvSession, prepareKv, type KvCase } from '../helpers/kv-attention.js';
import { eachArchitecture } from '../helpers/kernels.js';
import { floatsOf, type GraphType } from '../helpers/op-model.js';
import { seed } from '../helpers/random.js';

type Outputs = Readonly<Record<string, Tensor>>;

const graphTypes: readonly GraphType[] = ['float32', 'float16'];
const half = { rotary: 'half' } as const;

const cases: readonly KvCase[] = [
  { title: 'MHA, empty past', tokens: 5, past: 0, heads: 2, kvHeads: 2, headDim: 32 },
  { title: 'one token after a past', tokens: 1, past: 70, heads: 4, kvHeads: 2, headDim: 64, ...half },
  { title: 'GQA 3:1, 8 bits', tokens: 9, past: 31, heads: 6, kvHeads: 2, headDim: 64, bits: 8, ...half },
  { title: 'MQA, post-RoPE keys', tokens: 40, past: 3, heads: 4, kvHeads: 1, headDim: 80, ...half, kvRope: 'post' },
  { title: 'interleaved RoPE', tokens: 7, past: 8, heads: 2, kvHeads: 1, headDim: 96, rotary: 'interleaved' },
  {
    title: 'interleaved, post',
    tokens: 3,
    past: 2,
    heads: 1,
    kvHeads: 1,
    headDim: 32,
    rotary: 'interleaved',
    kvRope: 'post',
  },
  { title: 'partial RoPE', tokens: 4, past: 5, heads: 2, kvHeads: 2, headDim: 80, ...half, pairs: 16, kvRope: 'post' },
  { title: 'head size 128', tokens: 33, past: 32, heads: 4, kvHeads: 2, headDim: 128, ...half },
  {
    title: 'head size 256, soft cap, scale',
    tokens: 2,
    past: 64,
    heads: 2,
    kvHeads: 1,
    headDim: 256,
    softcap: 5,
    scale: 0.2,
  },
  { title: 'window', tokens: 50, past: 20, heads: 2, kvHeads: 1, headDim: 32, window: 9, ...half },
  { title: 'not causal, mask', tokens: 6, past: 4, heads: 2, kvHeads: 1, headDim: 32, causal: false, mask: [1, 1, 6] },
  { title: 'mask for each head', batch: 2, tokens: 3, past: 40, heads: 4, kvHeads: 2, headDim: 32, mask: [2, 4, 3] },
  { title: 'mask for each sequence', batch: 3, tokens: 2, past: 1, heads: 2, kvHeads: 2, headDim: 32, mask: [3, 1, 1] },
  { title: 'packed q, k, v', batch: 2, tokens: 4, past: 6, heads: 4, kvHeads: 2, headDim: 64, packed: true, ...half },
  {
    title: 'a prompt padded on the right',
    batch: 3,
    tokens: 6,
    past: 0,
    heads: 2,
    kvHeads: 1,
    headDim: 32,
    lengths: [6, 2, 0],
    ...half,
  },
  {
    title: 'sequences of different lengths',
    batch: 3,
    tokens: 1,
    past: 37,
    heads: 2,
    kvHeads: 1,
    headDim: 64,
    lengths: [38, 5, 1],
    ...half,
  },
  {
    title: 'in place',
    batch: 2,
    tokens: 3,
    past: 45,
    heads: 4,
    kvHeads: 2,
    headDim: 64,
    lengths: [36, 3],
    inPlace: true,
    ...half,
  },
  { title: 'clip', tokens: 4, past: 4, heads: 2, kvHeads: 2, headDim: 48, clip: 0.9, bits: 8, kvRope: 'post', ...half },
  { title: 'a NaN', tokens: 5, past: 2, heads: 2, kvHeads: 2, headDim: 32, oddValue: NaN },
  { title: 'an infinity', tokens: 5, past: 2, heads: 2, kvHeads: 1, headDim: 32, oddValue: -Infinity, ...half },
  { title: 'a value with a large range', tokens: 5, past: 2, heads: 2, kvHeads: 1, headDim: 32, oddValue: 60000 },
  { title: 'no new token', tokens: 0, past: 4, heads: 2, kvHeads: 1, headDim: 32 },
];

function assertSameCache(actual: Outputs, name: string, expected: KvCache, where: string): void {
  const equal = (data: ArrayLike<number>, wanted: ArrayLike<number>, what: string) => {
    assert.equal(data.length, wanted.length, `${where}: ${what}: length`);
    for (let i = 0; i < wanted.length; i++)
      if (data[i] !== wanted[i]) assert.fail(`${where}: ${what}[${i}] is ${data[i]}, expected ${wanted[i]}`);
  };
  equal(bits16(actual[`${name}_param`]!), expected.parameters, `${name}_param`);
  equal(actual[name]!.data as Uint8Array, expected.codes, name);
}

function bits16(tensor: Tensor): Uint16Array {
  const data = tensor.data as unknown as Uint16Array;
  return new Uint16Array(data.buffer, data.byteOffset, data.length);
}

/**
 * Sums and exponentials in binary32 against float64: relative to the largest value, 5e-5 covers scores near ±20 (the steepest case here)
 * times 2^-24 times a few hundred roundings; float16 rounds the output once more.
 */
function assertNear(actual: Float32Array, expected: Float64Array, type: GraphType, where: string): void {
  const largest = expected.reduce(
    (most, value) => (Number.isFinite(value) ? Math.max(most, Math.abs(value)) : most),
    0,
  );
  for (let i = 0; i < expected.length; i++) {
    const wanted = expected[i]!;
    if (Number.isNaN(wanted) && Number.isNaN(actual[i])) continue;
    const allowed = 5e-5 * largest + (type === 'float16' ? 2 ** -11 * Math.abs(wanted) + 2 ** -24 : 0);
    if (!(Math.abs(actual[i]! - wanted) <= allowed))
      assert.fail(`${where}: y[${i}] is ${actual[i]}, expected ${wanted}`);
  }
}

describe(`QuantKvAttention kernels (seed ${seed})`, () => {
  for (const type of graphTypes) {
    eachArchitecture('QuantKvAttention', `${type}: ${cases.length} cases agree with the reference`, async () => {
      for (const c of cases) {
        const { inputs, attributes, feeds } = prepareKv(c, type);
        const session = await kvSession(c, type, feeds);
        const actual = (await session.run(feeds)) as Outputs;
        const expected = quantKvAttention(inputs, attributes);
        assertSameCache(actual, 'present_k', expected.presentK, c.title);
        assertSameCache(actual, 'present_v', expected.presentV, c.title);
        assertNear(floatsOf(actual['y']!), expected.y, type, c.title);
        await session.release();
      }
    });
  }

  eachArchitecture('QuantKvAttention', 'growing and in place are equal bit for bit', async () => {
    const base: KvCase = {
      title: 'both forms',
      batch: 2,
      tokens: 5,
      past: 40,
      heads: 6,
      kvHeads: 2,
      headDim: 64,
      ...half,
    };
    const { feeds } = prepareKv(base, 'float32');
    const growing = await kvSession(base, 'float32', feeds);
    const grown = (await growing.run(feeds)) as Outputs;
    const capacity = 64;
    const padded = Object.entries(feeds).map(([name, tensor]): [string, Tensor] =>
      name.startsWith('past') ? [name, withRows(tensor, capacity, 0xaa)] : [name, tensor],
    );
    const buffers: Record<string, Tensor> = Object.fromEntries(padded);
    buffers['lengths'] = new Tensor('int32', Int32Array.of(45, 45), [2]);
    const inPlace = await kvSession({ ...base, inPlace: true }, 'float32', buffers);
    const kept = (await inPlace.run(buffers)) as Outputs;
    assert.deepEqual(kept['y']!.data, grown['y']!.data);
    for (const name of ['present_k', 'present_k_param', 'present_v', 'present_v_param']) {
      assert.deepEqual(kept[name]!.dims.slice(0, 3), [2, 2, capacity]);
      assert.deepEqual(withRows(kept[name]!, 45, 0).data, grown[name]!.data, name);
    }
    await growing.release();
    await inPlace.release();
  });

  eachArchitecture('QuantKvAttention', 'a prompt in one piece equals its tokens one by one, bit for bit', async () => {
    const whole: KvCase = {
      title: 'pieces',
      tokens: 67,
      past: 0,
      heads: 4,
      kvHeads: 2,
      headDim: 32,
      window: 40,
      ...half,
    };
    const { feeds } = prepareKv(whole, 'float32');
    const session = await kvSession(whole, 'float32', feeds);
    const expected = (await session.run(feeds)) as Outputs;
    let past = { ...feeds };
    for (let s = 0; s < whole.tokens; s++) {
      const token = (name: string) => {
        const { data, dims } = feeds[name]!;
        const width = dims[2]!;
        return new Tensor('float32', (data as Float32Array).subarray(s * width, (s + 1) * width), [1, 1, width]);
      };
      const step = (await session.run({ ...past, q: token('q'), k: token('k'), v: token('v') })) as Outputs;
      const width = expected['y']!.dims[2]!;
      const row = (expected['y']!.data as Float32Array).subarray(s * width, (s + 1) * width);
      assert.deepEqual(step['y']!.data, row, `token ${s}`);
      const names = ['k', 'k_param', 'v', 'v_param'];
      past = { ...past, ...Object.fromEntries(names.map((name) => [`past_${name}`, step[`present_${name}`]!])) };
    }
    assert.deepEqual(past['past_k']!.data, expected['present_k']!.data);
    await session.release();
  });

  eachArchitecture('QuantKvAttention', 'one query whose keys several tasks share gives the same bits', async () => {
    // With one kv head, a block of queries is one task and keeps its keys together; a single query's are shared.
    for (const change of [{}, { window: 300 }, { tokens: 256 }]) {
      const whole: KvCase = {
        title: 'shares',
        tokens: 700,
        past: 0,
        heads: 2,
        kvHeads: 1,
        headDim: 32,
        ...half,
        ...change,
      };
      const { feeds } = prepareKv(whole, 'float32');
      const session = await kvSession(whole, 'float32', feeds);
      const expected = (await session.run(feeds)) as Outputs;
      const cut = (tensor: Tensor, begin: number, end: number) => {
        const width = tensor.dims[2]!;
        const data = (tensor.data as Float32Array).subarray(begin * width, end * width);
        return new Tensor('float32', data, [1, end - begin, width]);
      };
      const rows = (begin: number, end: number) =>
        Object.fromEntries(['q', 'k', 'v'].map((name) => [name, cut(feeds[name]!, begin, end)]));
      const last = whole.tokens - 1;
      const first = (await session.run({ ...feeds, ...rows(0, last) })) as Outputs;
      const names = ['k', 'k_param', 'v', 'v_param'];
      const past = Object.fromEntries(names.map((name) => [`past_${name}`, first[`present_${name}`]!]));
      const step = (await session.run({ ...feeds, ...past, ...rows(last, last + 1) })) as Outputs;
      assert.deepEqual(step['y']!.data, cut(expected['y']!, last, last + 1).data);
      await session.release();
    }
  });
});

const outputs: readonly [string, NonNullable<KvCase['output']>][] = [
  ['one scale a token', { format: 's8', groupSize: 0, outlierChannels: 0, clip: 1 }],
  ['groups across heads', { format: 's4', groupSize: 80, outlierChannels: 0, clip: 0.9, withoutY: true }],
  ['sign and magnitude', { format: 's4_e4m3', groupSize: 32, outlierChannels: 0, clip: 1, withoutY: true }],
  ['minifloats', { format: 'e4m3', groupSize: 0, outlierChannels: 0, clip: 1, withoutY: true }],
  [
    'sorted channels with outliers',
    { format: 's4', groupSize: 48, outlierChannels: 16, clip: 0.9, reorderIndex: shuffled(160), withoutY: true },
  ],
];

describe('QuantKvAttention quantizes its output', () => {
  const base: KvCase = { title: 'out', batch: 2, tokens: 6, past: 9, heads: 5, kvHeads: 1, headDim: 32, ...half };
  const padded: KvCase = { ...base, past: 0, lengths: [6, 2], packed: true };
  for (const type of graphTypes)
    for (const [what, output] of outputs)
      it(`${type}, ${what}: as Quantize behind it, bit for bit`, async () => {
        for (const c of [base, padded, { ...base, tokens: 0 }, { ...base, batch: 0, tokens: 1 }]) {
          const { feeds } = prepareKv(c, type);
          const plain = await kvSession(c, type, feeds);
          const expected = (await plain.run(feeds)) as Outputs;
          const fused = { ...c, output };
          const given = prepareKv(fused, type).feeds;
          const session = await kvSession(fused, type, given);
          const actual = (await session.run(given)) as Outputs;
          const rows = quantize(floatsOf(expected['y']!), 160, output, output.reorderIndex);
          assert.deepEqual(actual['codes']!.data, rows.q);
          assert.deepEqual(actual['scale']!.data, rows.scale);
          assert.deepEqual(actual['codes']!.dims, [c.batch, c.tokens, 160]);
          assert.equal(actual['y'] === undefined, output.withoutY === true);
          for (const name of ['y', 'present_k', 'present_v'])
            if (actual[name]) assert.deepEqual(actual[name].data, expected[name]!.data, name);
          await Promise.all([plain.release(), session.release()]);
        }
      });

  it('refuses groups that do not fit', async () => {
    const output = { format: 's4', groupSize: 96, outlierChannels: 0, clip: 1 } as const;
    const { feeds } = prepareKv(base, 'float32');
    const session = await kvSession({ ...base, output }, 'float32', feeds);
    await assert.rejects(session.run(feeds), /group_size is 96, expected 0 or a divisor of .*160/);
    await session.release();
  });
});

/** 0 … count − 1 in another order. */
function shuffled(count: number): Int32Array {
  return Int32Array.from({ length: count }, (_, i) => (i * 37 + 11) % count);
}

/** A cache tensor cut or extended to `rows` rows a head. */
function withRows(tensor: Tensor, rows: number, filler: number): Tensor {
  const [batch, heads, before, width] = tensor.dims as [number, number, number, number];
  const from = tensor.type === 'uint8' ? (tensor.data as Uint8Array) : bits16(tensor);
  const to = new (from.constructor as Uint8ArrayConstructor)(batch * heads * rows * width).fill(filler);
  for (let head = 0; head < batch * heads; head++)
    to.set(from.subarray(head * before * width, (head * before + Math.min(before, rows)) * width), head * rows * width);
  return new Tensor(tensor.type as 'uint8', to, [batch, heads, rows, width]);
}
