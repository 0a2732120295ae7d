/**
 * Attention of plain nodes, written in ways of its own: what is taken over gives what ONNX Runtime gives, and what would not is kept, with
 * the reason. Eight-bit caches leave 45 dB; anything in a wrong place leaves less than 20.
 */
import { match, ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { int, tensorOf, type Value } from '../../graph-rewrite/ir/index.js';
import { attentionOutputs } from '../helpers/kv-run.js';
import {
  headSize,
  heads,
  kvHeads,
  plainAttention,
  type PlainAttention,
  type PlainGraph,
} from '../helpers/plain-attention.js';
import { sqnr } from '../helpers/zoo.js';

type Graph = PlainGraph;

const masked = (graph: Graph, x: Value): Value => graph.add(x, graph.causal());
const scaled = (graph: Graph, x: Value): Value => graph.mul(x, graph.number(0.25));
const root = (graph: Graph, x: Value): Value => graph.mul(x, graph.number(0.5));
const norm = (graph: Graph, x: Value): Value => graph.rmsNorm(x, graph.weight('norm.weight', [headSize], 3));
/** Steeper for every head. */
const alibi = (graph: Graph): Value => {
  const keys = graph.op('Range', [graph.scalar(0), graph.sizes()[1], graph.scalar(1)]);
  const distance = graph.unsqueeze(graph.op('Cast', [keys], { attributes: { to: int(1) } }), 0, 1, 2);
  return graph.mul(distance, graph.floats([1, heads, 1, 1], 0.5, 0.25, 0.125, 0.0625));
};
/** Halves of cos and sin, and every other channel of x. */
const pairs = (graph: Graph, x: Value) => {
  const [cos, sin] = graph.angles().map((table) => graph.slice(table, 0, headSize / 2)) as [Value, Value];
  return { cos, sin, even: graph.slice(x, 0, undefined, 2), odd: graph.slice(x, 1, undefined, 2) };
};

const taken: Readonly<Record<string, PlainAttention>> = {
  'as exporters write it': {},
  'as many heads of keys as of queries': { kvHeads: heads },
  'scaled queries': { query: scaled, scores: masked },
  'scaled keys in front of the cache': { key: scaled, scores: masked },
  'queries and keys scaled by the root': { query: root, swapped: root, scores: masked },
  'a soft cap': {
    scores: (g, x) => masked(g, g.mul(g.op('Tanh', [g.mul(x, g.number(0.125))]), g.number(2))),
  },
  'a mask chosen by Where': {
    scores: (g, x) => g.op('Where', [g.unsqueeze(g.seen(), 0, 1), scaled(g, x), g.number(-1e9)]),
  },
  'a mask of rank 2 chosen by Where': { scores: (g, x) => g.op('Where', [g.seen(), scaled(g, x), g.number(-1e9)]) },
  'masked_fill: the lowest score where the condition holds': {
    scores: (g, x) => g.op('Where', [g.op('Not', [g.seen()]), g.number(-1e9), scaled(g, x)]),
  },
  'an added mask of rank 2': { scores: (g, x) => g.add(scaled(g, x), g.hidden(g.seen())) },
  'no mask': { scores: scaled },
  'distances of heads in the mask': {
    rotate: (_, x) => x,
    scores: (g, x) => g.add(scaled(g, x), g.add(alibi(g), g.causal())),
  },
  'heads repeated by Tile': { repeat: (g, x) => g.ungrouped(g.op('Tile', [g.grouped(x), g.integers(1, 1, 2, 1, 1)])) },
  'heads repeated by Concat': { repeat: (g, x) => g.ungrouped(g.concat(2, g.grouped(x), g.grouped(x))) },
  'heads repeated by Gather': {
    repeat: (g, x) => g.op('Gather', [x, g.integers(0, 0, 1, 1)], { attributes: { axis: int(1) } }),
  },
  'heads repeated by Reshape and Expand': {
    repeat: (g, x) =>
      g.ungrouped(g.op('Expand', [g.reshape(x, 0, kvHeads, 1, -1, headSize), g.integers(1, 1, 2, 1, 1)])),
  },
  'RoPE before heads are in front': {
    heads: (g, part, n) => g.reshape(g.linear(part, n * headSize), 0, 0, n, headSize),
    value: (g, x) => g.transpose(x, 0, 2, 1, 3),
    rotate: (g, x) => {
      const [cos, sin] = g.angles().map((table, i) => g.once(`wide${i}`, () => g.transpose(table, 0, 2, 1, 3)));
      return g.transpose(g.rotate(x, [cos!, sin!]), 0, 2, 1, 3);
    },
  },
  'RoPE of every other channel': {
    rotate: (g, x) => {
      const { cos, sin, even, odd } = pairs(g, x);
      const real = g.op('Sub', [g.mul(even, cos), g.mul(odd, sin)]);
      const imaginary = g.add(g.mul(odd, cos), g.mul(even, sin));
      return g.reshape(g.concat(4, g.unsqueeze(real, 4), g.unsqueeze(imaginary, 4)), 0, 0, -1, headSize);
    },
  },
  'RoPE with a function of sin alone': {
    rotate: (g, x) => {
      const [cos, sin] = g.angles();
      return g.rotate(x, [cos, g.once('function', () => g.op('Tanh', [sin]))]);
    },
  },
  'RoPE of half a head': {
    rotate: (g, x) => {
      const [cos, sin] = g.angles().map((table) => g.slice(table, 0, 8)) as [Value, Value];
      const [turning, still] = [g.slice(x, 0, 8), g.slice(x, 8)];
      return g.concat(-1, g.add(g.mul(turning, cos), g.mul(g.turned(turning, 8), sin)), still);
    },
  },
  'RoPE of queries alone': { rotate: (g, x, part) => (part === 'q' ? g.rotate(x) : x) },
  'RoPE at counted marks': {
    rotate: (g, x) => {
      const positions = () => {
        const mask = g.input('attention_mask', ['batch', 'total'], 'int64');
        const counted = g.op('Sub', [g.op('CumSum', [mask, g.scalar(1)]), g.scalar(1)]);
        const begin = g.unsqueeze(g.size(g.past('key', kvHeads), 2), 0);
        return g.op('Slice', [counted, begin, g.integers(2 ** 40), g.integers(1)]);
      };
      return g.rotate(x, g.angles(positions));
    },
  },
  'RoPE at positions that sizes give': {
    rotate: (g, x) =>
      g.rotate(
        x,
        g.angles(() => g.unsqueeze(g.op('Range', [...g.sizes(), g.scalar(1)]), 0)),
      ),
  },
  'RoPE at angles that depend on the last position': {
    rotate: (g, x) =>
      g.rotate(
        x,
        g.angles(() => g.add(g.positions, g.op('ReduceMax', [g.positions], { attributes: { keepdims: int(1) } }))),
      ),
  },
  'norms of heads': {
    heads: (g, part, n) => {
      const wide = g.reshape(g.linear(part, n * headSize), 0, 0, n, headSize);
      return g.transpose(part === 'v' ? wide : norm(g, wide), 0, 2, 1, 3);
    },
  },
  'norms once heads are in front': {
    heads: (g, part, n) => {
      const split = g.split(g.linear(part, n * headSize), n);
      return part === 'v' ? split : norm(g, split);
    },
  },
  'a bias of heads': {
    heads: (g, part, n) => g.add(g.split(g.linear(part, n * headSize), n), g.weight('bias', [n, 1, headSize], 1)),
  },
  'keys and values repeated in front of the cache': {
    kvHeads: heads,
    heads: (g, part, n) => {
      if (part === 'q') return g.split(g.linear(part, n * headSize), n);
      const split = g.grouped(g.split(g.linear(part, kvHeads * headSize), kvHeads));
      return g.ungrouped(g.op('Expand', [split, g.integers(1, 1, 2, 1, 1)]));
    },
  },
  'heads in float16, scores and mask in float32': { halves: true },
  'zeros for rows without a key': { probabilities: (g, x) => g.op('Where', [g.op('IsNaN', [x]), g.number(0), x]) },
};

const kept: Readonly<Record<string, readonly [PlainAttention, RegExp]>> = {
  'scaled values': [{ value: (g, x) => g.mul(x, g.number(3)) }, /^values are multiplied by 3$/],
  'values scaled behind the cache': [{ cachedValue: (g, x) => g.mul(x, g.number(3)) }, /^values are multiplied by 3$/],
  'heads shared by turns': [
    {
      repeat: (g, x) =>
        g.ungrouped(g.op('Expand', [g.reshape(x, 0, 1, kvHeads, -1, headSize), g.integers(1, 2, 1, 1, 1)])),
    },
    /^head 1 of ".*" is not head 0 of "present.0.key"/,
  ],
  'heads shared by turns, by Concat': [
    { repeat: (g, x) => g.concat(1, x, x) },
    /^head 1 of ".*" is not head 0 of "present.0.key"/,
  ],
  'a weak score in place of hidden ones': [
    { scores: (g, x) => g.op('Where', [g.seen(), scaled(g, x), g.number(-3)]) },
    /^Where "Where" puts -3 in place of scores, expected at most -10000$/,
  ],
  'two masks': [{ scores: (g, x) => masked(g, g.add(x, alibi(g))) }, /^Add ".*" is a second mask$/],
  'a soft cap behind the mask': [
    { scores: (g, x) => g.mul(g.op('Tanh', [masked(g, x)]), g.number(2)) },
    /the mask is scaled with the scores$/,
  ],
  'a mask of heads': [
    { probabilities: (g, x) => g.mul(x, g.floats([1, heads, 1, 1], 1, 0, 1, 1)) },
    /^Mul ".*" changes the probabilities$/,
  ],
  'probabilities set to zero': [
    {
      probabilities: (g, x) => {
        const heard = g.graph.addInitializer('heard', tensorOf([1, 0, 1, 1], [1, heads, 1, 1]));
        return g.op('Where', [g.op('Cast', [heard], { attributes: { to: int(9) } }), x, g.number(0)]);
      },
    },
    /^Where ".*" changes the probabilities$/,
  ],
  'a sink': [
    {
      softmax: (g, x) => {
        const rows = g.op('Slice', [g.op('Shape', [x]), g.integers(0), g.integers(3), g.integers(0)]);
        const sink = g.op('Expand', [g.weight('sink', [1, heads, 1, 1]), g.concat(0, rows, g.integers(1))]);
        const joined = g.op('Softmax', [g.concat(-1, x, sink)], { attributes: { axis: int(-1) } });
        return g.slice(joined, 0, -1);
      },
    },
    /^Concat ".*" stands between scores and Softmax$/,
  ],
  'Softmax over queries': [
    { softmax: (g, x) => g.op('Softmax', [x], { attributes: { axis: int(2) } }) },
    /^Softmax "Softmax" is not over the last axis$/,
  ],
  ...Object.fromEntries(
    (['scores', 'probabilities', 'repeated', 'attended'] as const).map((output) => [
      `${output} as an output`,
      [{ output }, /^what it makes of the cache is the output ".*"$/] as const,
    ]),
  ),
};

const kv8 = (rope: string) => withSettings(findRecipe('kv4'), ['kv.bits=8', `kv.rope=${rope}`]);

describe('passes: attention of plain nodes in other forms', () => {
  for (const [title, parts] of Object.entries(taken))
    it(`${title}: as ONNX Runtime computes it`, async () => {
      const expected = await attentionOutputs(plainAttention(parts), { title });
      for (const rope of ['pre', 'post']) {
        const model = plainAttention(parts);
        const analysis = analyze(model);
        applyPlan(model, makePlan(analysis, undefined, kv8(rope), model), analysis);
        const measured = sqnr(expected, await attentionOutputs(model, { title }));
        ok(measured >= 38, `keys ${rope} RoPE: ${measured.toFixed(1)} dB`);
      }
    });

  it('heads shared by turns: their channels stay in order', () => {
    const [attention] = analyze(plainAttention(kept['heads shared by turns']![0])).attentions;
    match(attention?.headOrderReason ?? '', /^Expand ".*" does not repeat heads along axis 2$/);
  });

  for (const [title, [parts, reason]] of Object.entries(kept))
    it(`${title}: kept in float, and said why`, () => {
      const [cache] = analyze(plainAttention(parts)).caches;
      match(cache?.reason ?? '', reason);
      ok(cache?.hasCache);
    });
});
