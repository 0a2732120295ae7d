/** Every setting of GroupQueryAttention that is taken over means the same: ONNX Runtime's own operator beside ours with 8-bit caches. */
import { ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { float, int, tensorOf, type Attribute, type Model, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';
import { attentionOutputs, type AttentionRun } from '../helpers/kv-run.js';
import { sqnr } from '../helpers/zoo.js';

const heads = 4;
const kvHeads = 2;
const positions = 32;

interface Setting extends AttentionRun {
  readonly attributes?: Readonly<Record<string, Attribute>>;
  readonly packed?: boolean;
  /** Batch and heads of a bias on the scores. */
  readonly bias?: readonly ['batch' | 1, number];
  readonly size?: number;
  /** Of RoPE. */
  readonly pairs?: number;
  readonly noRotation?: boolean;
  readonly withPositions?: boolean;
}

const settings: readonly Setting[] = [
  { title: 'as it is' },
  { title: 'packed q, k and v', packed: true },
  { title: 'a scale', attributes: { scale: float(0.6) } },
  { title: 'a soft cap', attributes: { softcap: float(1.5) } },
  { title: 'a window', attributes: { local_window_size: int(3) } },
  { title: 'interleaved RoPE', attributes: { rotary_interleaved: int(1) } },
  { title: 'no RoPE', noRotation: true },
  { title: 'positions', withPositions: true },
  { title: 'a bias on the scores', bias: ['batch', heads] },
  { title: 'a bias for all heads', bias: ['batch', 1] },
  { title: 'a bias for all sequences', bias: [1, heads] },
  { title: 'RoPE of half a head', size: 32, pairs: 8 },
  { title: 'interleaved RoPE of half a head', size: 32, pairs: 8, attributes: { rotary_interleaved: int(1) } },
  { title: 'a prompt padded on the right', lengths: [9, 5] },
];

function model({
  attributes = {},
  packed = false,
  bias,
  size = 16,
  pairs = size / 2,
  noRotation = false,
  withPositions = false,
}: Setting): Model {
  const test = new TestGraph(21);
  const { graph } = test;
  const widths = packed ? [heads + 2 * kvHeads] : [heads, kvHeads, kvHeads];
  const fresh = ['q', 'k', 'v'].map((name, i) =>
    widths[i] ? test.input(name, ['batch', 'tokens', widths[i] * size]) : undefined,
  );
  const past = ['key', 'value'].map((kind) =>
    test.input(`past_key_values.0.${kind}`, ['batch', kvHeads, 'past', size]),
  );
  const angle = (of: (x: number) => number) =>
    tensorOf(
      Float32Array.from({ length: positions * pairs }, (_, i) => of(Math.floor(i / pairs) * 0.7 ** (i % pairs))),
      [positions, pairs],
    );
  const tables = noRotation
    ? []
    : [graph.addInitializer('cos', angle(Math.cos)), graph.addInitializer('sin', angle(Math.sin))];
  const optional: (Value | undefined)[] = [
    ...[tables[0], tables[1], withPositions ? test.input('position_ids', ['batch', 'tokens'], 'int64') : undefined],
    bias ? test.input('bias', [...bias, 'tokens', 'total']) : undefined,
  ];
  const node = graph.addNode({
    ...{ opType: 'GroupQueryAttention', domain: 'com.microsoft', name: 'attention' },
    inputs: [...fresh, ...past, test.input('last', ['batch'], 'int32'), test.input('total', [], 'int32'), ...optional],
    outputs: ['y', 'present.0.key', 'present.0.value'],
    attributes: {
      ...{ num_heads: int(heads), kv_num_heads: int(kvHeads), do_rotary: int(noRotation ? 0 : 1) },
      ...attributes,
    },
  });
  test.output(node.output(0)!, ['batch', 'tokens', heads * size]);
  for (const i of [1, 2]) test.output(node.output(i)!, ['batch', kvHeads, 'all', size]);
  return test.model;
}

describe('passes: GroupQueryAttention with a quantized cache', () => {
  for (const setting of settings) {
    it(`${setting.title}: as ONNX Runtime computes it`, async () => {
      const expected = await attentionOutputs(model(setting), setting);
      for (const rope of ['pre', 'post']) {
        const quantized = model(setting);
        const analysis = analyze(quantized);
        const recipe = withSettings(findRecipe('kv4'), ['kv.bits=8', `kv.rope=${rope}`]);
        applyPlan(quantized, makePlan(analysis, undefined, recipe, quantized), analysis);
        const measured = sqnr(expected, await attentionOutputs(quantized, setting));
        ok(measured >= 38, `keys ${rope} RoPE: ${measured.toFixed(1)} dB`);
      }
    });
  }
});
