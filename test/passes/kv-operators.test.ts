/** MultiHeadAttention and Attention with caches: ONNX Runtime's own operators beside ours with 8-bit caches. */
import { match, ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { float, int, ints, tensorOf, type Attribute, type Model, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';
import { attentionOutputs } from '../helpers/kv-run.js';
import { sqnr } from '../helpers/zoo.js';

const heads = 4;
const kvHeads = 2;
const size = 16;

type Attributes = Readonly<Record<string, Attribute>>;

/** A graph of one attention between rows. */
class AttentionGraph extends TestGraph {
  constructor(readonly kv = heads) {
    super(23);
  }
  rows(name: 'q' | 'k' | 'v'): Value {
    return this.input(name, ['batch', 'tokens', (name === 'q' ? heads : this.kv) * size]);
  }
  past(kind: 'key' | 'value'): Value {
    return this.input(`past_key_values.0.${kind}`, ['batch', this.kv, 'past', size]);
  }
  get attentionMask(): Value {
    return this.input('attention_mask', ['batch', 'total'], 'int32');
  }
  get positions(): Value {
    return this.input('position_ids', ['batch', 'tokens'], 'int64');
  }
  constant(...values: number[]): Value {
    return this.graph.addInitializer('constant', tensorOf(values));
  }
  /** cos and sin `[32, pairs]`. */
  tables(pairs: number): [Value, Value] {
    const table = (of: (x: number) => number) =>
      Float32Array.from({ length: 32 * pairs }, (_, i) => of(Math.floor(i / pairs) * 0.7 ** (i % pairs)));
    return [
      this.graph.addInitializer('cos', tensorOf(table(Math.cos), [32, pairs])),
      this.graph.addInitializer('sin', tensorOf(table(Math.sin), [32, pairs])),
    ];
  }
  /** `[B, S, n · size]` as `[B, n, S, size]`. */
  split(rows: Value, count: number): Value {
    const wide = this.op('Reshape', [rows, this.constant(0, 0, count, size)]);
    return this.op('Transpose', [wide], { attributes: { perm: ints([0, 2, 1, 3]) } });
  }
  merge(split: Value): Value {
    const wide = this.op('Transpose', [split], { attributes: { perm: ints([0, 2, 1, 3]) } });
    return this.op('Reshape', [wide, this.constant(0, 0, heads * size)]);
  }
  /** Joined to its cache, whose output is set. */
  join(fresh: Value, kind: 'key' | 'value'): Value {
    const name = `present.0.${kind}`;
    const joined = this.op('Concat', [this.past(kind), fresh], { outputs: [name], attributes: { axis: int(2) } });
    this.output(joined, ['batch', this.kv, 'total', size]);
    return joined;
  }
  /** Each head as often as query heads share it. */
  repeat(x: Value): Value {
    const wide = this.op('Unsqueeze', [x, this.constant(2)]);
    const repeated = this.op('Expand', [wide, this.constant(1, 1, heads / this.kv, 1, 1)]);
    return this.op('Reshape', [repeated, this.constant(0, heads, -1, size)]);
  }
  /** The node, its caches among inputs and outputs. */
  attention(opType: string, domain: string, inputs: readonly (Value | undefined)[], attributes: Attributes): Value {
    const outputs = ['attended', 'present.0.key', 'present.0.value'];
    const node = this.graph.addNode({ opType, domain, name: 'attention', inputs, outputs, attributes });
    for (const i of [1, 2]) this.output(node.output(i)!, ['batch', this.kv, 'total', size]);
    return node.output(0)!;
  }
  /** Lower triangle of [1, 1, S, T + S] as numbers to add; `bool` as conditions. */
  causal(bool = false): Value {
    const number = (value: number) => this.graph.addInitializer('number', tensorOf([value], []));
    const shape = (value: Value) => this.op('Shape', [value]);
    const pick = (value: Value, axis: number) => this.op('Gather', [shape(value), number(axis)]);
    const past = pick(
      this.graph.inputs.find(({ name }) => name.startsWith('past'))!,
      2,
    );
    const total = this.op('Add', [
      past,
      pick(
        this.graph.inputs.find(({ name }) => name === 'q')!,
        1,
      ),
    ]);
    const keys = this.op('Range', [number(0), total, number(1)]);
    const queries = this.op('Unsqueeze', [this.op('Range', [past, total, number(1)]), this.constant(1)]);
    const seen = this.op('LessOrEqual', [keys, queries]);
    if (bool) return seen;
    const wide = this.op('Unsqueeze', [seen, this.constant(0, 1)]);
    return this.op('Where', [wide, this.number(0), this.number(-3.4e38)]);
  }
  done(y: Value): Model {
    if (y.name !== 'y') y = this.op('Identity', [y], { outputs: ['y'] });
    this.output(y, ['batch', 'tokens', heads * size]);
    return this.model;
  }
}

const multiHead = { num_heads: int(heads) };
const grouped = { q_num_heads: int(heads), kv_num_heads: int(kvHeads) };

/** MultiHeadAttention with its own cache. */
function withOwnCache(
  attributes: Attributes,
  masks: (graph: AttentionGraph) => (Value | undefined)[] = () => [],
  rotate: (graph: AttentionGraph, rows: Value) => Value = (_, rows) => rows,
): Model {
  const graph = new AttentionGraph();
  const rows = [rotate(graph, graph.rows('q')), rotate(graph, graph.rows('k')), graph.rows('v'), undefined];
  const [padding, bias] = masks(graph);
  const inputs = [...rows, padding, bias, graph.past('key'), graph.past('value')];
  return graph.done(graph.attention('MultiHeadAttention', 'com.microsoft', inputs, { ...multiHead, ...attributes }));
}

/** Positions and tables are made once. */
function microsoftRope(attributes: Attributes, pairs = size / 2) {
  let shared: readonly Value[] | undefined;
  return (graph: AttentionGraph, rows: Value) => {
    shared ??= [graph.positions, ...graph.tables(pairs)];
    return graph.op('RotaryEmbedding', [rows, ...shared], { domain: 'com.microsoft', attributes });
  };
}

/** Attention of opset 23 on rows, with its own cache. */
function onRows(attributes: Attributes, masks: (graph: AttentionGraph) => Value | undefined = () => undefined): Model {
  const graph = new AttentionGraph(kvHeads);
  const rows = [graph.rows('q'), graph.rows('k'), graph.rows('v')];
  const past = [graph.past('key'), graph.past('value')];
  return graph.done(graph.attention('Attention', '', [...rows, masks(graph), ...past], { ...grouped, ...attributes }));
}

const causal = { is_causal: int(1) };

const models: readonly [string, () => Model][] = [
  ['MultiHeadAttention, all keys seen', () => withOwnCache({})],
  ['MultiHeadAttention, causal, scaled', () => withOwnCache({ unidirectional: int(1), scale: float(0.5) })],
  [
    'MultiHeadAttention with attention_bias',
    () =>
      withOwnCache({ unidirectional: int(1) }, (graph) => [
        undefined,
        graph.input('bias', ['batch', heads, 'tokens', 'total']),
      ]),
  ],
  [
    'MultiHeadAttention with key_padding_mask',
    () => withOwnCache({ unidirectional: int(1) }, (graph) => [graph.attentionMask]),
  ],
  [
    'MultiHeadAttention behind RotaryEmbedding',
    () => withOwnCache({ unidirectional: int(1) }, undefined, microsoftRope({})),
  ],
  [
    'MultiHeadAttention behind interleaved RotaryEmbedding of half a head',
    () =>
      withOwnCache(
        { unidirectional: int(1) },
        undefined,
        microsoftRope({ interleaved: int(1), rotary_embedding_dim: int(8), num_heads: int(heads) }, 4),
      ),
  ],
  [
    'MultiHeadAttention of repeated heads behind RotaryEmbedding, the cache joined outside',
    () => {
      const graph = new AttentionGraph(kvHeads);
      const rotate = microsoftRope({});
      const q = rotate(graph, graph.rows('q'));
      const k = graph.join(graph.split(rotate(graph, graph.rows('k')), kvHeads), 'key');
      const v = graph.join(graph.split(graph.rows('v'), kvHeads), 'value');
      const inputs = [q, graph.merge(graph.repeat(k)), graph.merge(graph.repeat(v))];
      const y = graph.op('MultiHeadAttention', [...inputs, undefined, undefined, graph.causal()], {
        ...{ domain: 'com.microsoft', attributes: multiHead, outputs: ['y'] },
      });
      return graph.done(y);
    },
  ],
  ['Attention on rows, all keys seen', () => onRows({})],
  ['Attention on rows, causal, scaled', () => onRows({ ...causal, scale: float(0.6) })],
  ['Attention on rows, soft cap', () => onRows({ softcap: float(1.5) })],
  ['Attention on rows, soft cap, causal', () => onRows({ ...causal, softcap: float(1.5) })],
  [
    'Attention on rows, added mask of rank 3',
    () => onRows({}, (graph) => graph.input('bias', [heads, 'tokens', 'total'])),
  ],
  [
    'Attention on rows, conditions of rank 4',
    () => onRows(causal, (graph) => graph.input('seen', ['batch', 1, 'tokens', 'total'], 'bool')),
  ],
  [
    'Attention on heads, causal conditions of rank 2',
    () => {
      const graph = new AttentionGraph(kvHeads);
      const split = [
        graph.split(graph.rows('q'), heads),
        graph.split(graph.rows('k'), kvHeads),
        graph.split(graph.rows('v'), kvHeads),
      ];
      const past = [graph.past('key'), graph.past('value')];
      return graph.done(graph.merge(graph.attention('Attention', '', [...split, graph.causal(true), ...past], {})));
    },
  ],
  [
    'Attention on heads behind RotaryEmbedding, the cache joined outside',
    () => {
      const graph = new AttentionGraph(kvHeads);
      const [cos, sin] = graph.tables(size / 2);
      const positions = graph.positions;
      const rotate = (x: Value) => graph.op('RotaryEmbedding', [x, cos, sin, positions]);
      const q = rotate(graph.split(graph.rows('q'), heads));
      const k = graph.join(rotate(graph.split(graph.rows('k'), kvHeads)), 'key');
      const v = graph.join(graph.split(graph.rows('v'), kvHeads), 'value');
      return graph.done(graph.merge(graph.op('Attention', [q, k, v, graph.causal()])));
    },
  ],
  [
    'Attention behind RotaryEmbedding of rows, interleaved',
    () => {
      const graph = new AttentionGraph(kvHeads);
      const [cos, sin] = graph.tables(size / 2);
      const positions = graph.positions;
      const rotate = (x: Value, count: number) =>
        graph.op('RotaryEmbedding', [x, cos, sin, positions], {
          attributes: { interleaved: int(1), num_heads: int(count) },
        });
      const rows = [rotate(graph.rows('q'), heads), rotate(graph.rows('k'), kvHeads), graph.rows('v')];
      const past = [graph.past('key'), graph.past('value')];
      return graph.done(graph.attention('Attention', '', [...rows, undefined, ...past], { ...grouped, ...causal }));
    },
  ],
];

const kv8 = (rope: string) => withSettings(findRecipe('kv4'), ['kv.bits=8', `kv.rope=${rope}`]);

describe('passes: attention operators with a quantized cache', () => {
  for (const [title, make] of models)
    it(`${title}: as ONNX Runtime computes it`, async () => {
      const expected = await attentionOutputs(make(), { title });
      for (const rope of ['pre', 'post']) {
        const model = make();
        const analysis = analyze(model);
        const plan = makePlan(analysis, undefined, kv8(rope), model);
        applyPlan(model, plan, analysis);
        const measured = sqnr(expected, await attentionOutputs(model, { title }));
        ok(measured >= 38, `keys ${rope} RoPE: ${measured.toFixed(1)} dB`);
      }
    });

  const kept: readonly [string, () => Model, RegExp][] = [
    [
      'a bias',
      () => {
        const model = withOwnCache({});
        model.graph.nodes[0]!.setInput(
          3,
          model.graph.addInitializer('bias', tensorOf(new Float32Array(3 * heads * size))),
        );
        return model;
      },
      /^MultiHeadAttention "attention" adds a bias/,
    ],
    [
      'scores as an output',
      () => {
        const graph = new AttentionGraph(kvHeads);
        const rows = [graph.rows('q'), graph.rows('k'), graph.rows('v')];
        const node = graph.graph.addNode({
          ...{ opType: 'Attention', name: 'attention', attributes: { ...grouped, qk_matmul_output_mode: int(2) } },
          inputs: [...rows, undefined, graph.past('key'), graph.past('value')],
          outputs: ['y', 'present.0.key', 'present.0.value', 'scores'],
        });
        for (const output of node.outputs) graph.output(output!);
        return graph.model;
      },
      /^Attention "attention" has an output 3 \("scores"\), which is not taken over$/,
    ],
    [
      'a causal mask of its own over a cache joined outside',
      () => {
        const graph = new AttentionGraph(kvHeads);
        const q = graph.split(graph.rows('q'), heads);
        const k = graph.join(graph.split(graph.rows('k'), kvHeads), 'key');
        const v = graph.join(graph.split(graph.rows('v'), kvHeads), 'value');
        return graph.done(graph.merge(graph.op('Attention', [q, k, v], { attributes: causal })));
      },
      /counts the tokens of its own cache as new ones$/,
    ],
    [
      'weights inside',
      () => {
        const graph = new AttentionGraph();
        const inputs = [graph.rows('q'), graph.weight('w', [64, 192]), graph.weight('b', [192]), undefined];
        const past = graph.input('past', [2, 'batch', heads, 'past', size]);
        return graph.done(
          graph.op('Attention', [...inputs, past], {
            ...{ name: 'attention', domain: 'com.microsoft', attributes: multiHead, outputs: ['y', 'present'] },
          }),
        );
      },
      /^Attention "attention" of com.microsoft has the weights of q, k and v inside$/,
    ],
  ];
  for (const [what, make, reason] of kept)
    it(`keeps ${what} in float and says so`, () => {
      const [cache] = analyze(make()).caches;
      match(cache?.reason ?? '', reason);
    });
});
