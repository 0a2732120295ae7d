/** What masks mean, however they are written: each is run on samples. */
import { equal } from 'node:assert/strict';
import { MaskReader } from '../../graph-rewrite/analyze/kv-mask.js';
import { Shapes } from '../../graph-rewrite/analyze/shapes.js';
import { int, tensorOf, type Value } from '../../graph-rewrite/ir/index.js';
import { TestGraph } from '../helpers/graph.js';

const lowest = -3.4e38;

/** A graph with ids, attention_mask and a cache, and words to write masks in. */
class MaskGraph extends TestGraph {
  readonly ids = this.input('input_ids', ['b', 's'], 'int64');
  readonly attentionMask = this.input('attention_mask', ['b', 'a'], 'int64');
  readonly past = this.input('past.key', ['b', 2, 't', 16]);

  scalar(value: number): Value {
    return this.graph.addInitializer('scalar', tensorOf([value], []));
  }
  size(of: Value, axis: number): Value {
    return this.op('Gather', [this.op('Shape', [of]), this.scalar(axis)], { attributes: { axis: int(0) } });
  }
  get past0(): Value {
    return this.size(this.past, 2);
  }
  get total(): Value {
    return this.op('Add', [this.past0, this.size(this.ids, 1)]);
  }
  keys(): Value {
    return this.op('Range', [this.scalar(0), this.total, this.scalar(1)]);
  }
  queries(): Value {
    const range = this.op('Range', [this.past0, this.total, this.scalar(1)]);
    return this.op('Unsqueeze', [range, this.integers(1)]);
  }
  causal(): Value {
    return this.op('LessOrEqual', [this.keys(), this.queries()]);
  }
  marked(): Value {
    return this.op('Cast', [this.op('Unsqueeze', [this.attentionMask, this.integers(1, 2)])], {
      attributes: { to: int(9) },
    });
  }
  /** bool [s, t] as [1, 1, s, t]. */
  wide(mask: Value): Value {
    return this.op('Unsqueeze', [mask, this.integers(0, 1)]);
  }
  added(visible: Value, low = lowest): Value {
    return this.op('Where', [visible, this.number(0), this.number(low)]);
  }
}

type Write = (graph: MaskGraph) => Value;

/** Rows past … total and columns 0 … total of a constant of 64 positions, bool [1, 1, s, t]. */
function fromTable(graph: MaskGraph, sees: (row: number, column: number) => boolean): Value {
  const size = 64;
  const values = Int32Array.from({ length: size * size }, (_, i) => Number(sees(Math.floor(i / size), i % size)));
  const table = graph.graph.addInitializer('table', tensorOf(values, [1, 1, size, size]));
  const at = (value: Value) => graph.op('Reshape', [value, graph.integers(1)]);
  const rows = graph.op('Slice', [table, at(graph.past0), at(graph.total), graph.integers(2)]);
  const columns = graph.op('Slice', [rows, graph.integers(0), at(graph.total), graph.integers(3)]);
  return graph.op('Cast', [columns], { attributes: { to: int(9) } });
}

const both: Write = (graph) => graph.added(graph.op('And', [graph.wide(graph.causal()), graph.marked()]));

const masks: readonly [string, Write, string | undefined][] = [
  ['positions compared', both, 'causal and padding'],
  ['positions compared, without padding', (graph) => graph.added(graph.wide(graph.causal())), 'causal'],
  [
    'a triangle of lowest values, cut to the new tokens, and a product of inverted marks',
    (graph) => {
      const square = graph.op(
        'Concat',
        [0, 1].map(() => graph.op('Reshape', [graph.total, graph.integers(1)])),
        {
          attributes: { axis: int(0) },
        },
      );
      const full = graph.op('Expand', [graph.number(-1e9), square]);
      const triangle = graph.op('Trilu', [full, graph.scalar(1)], { attributes: { upper: int(1) } });
      const column = graph.op('Reshape', [graph.past0, graph.integers(1)]);
      const rows = graph.op('Slice', [triangle, column, graph.integers(2 ** 31 - 1), graph.integers(0)]);
      const unmarked = graph.op('Sub', [
        graph.number(1),
        graph.op('Cast', [graph.marked()], { attributes: { to: int(1) } }),
      ]);
      return graph.op('Add', [graph.wide(rows), graph.op('Mul', [unmarked, graph.number(-1e9)])]);
    },
    'causal and padding',
  ],
  [
    'a sliding window',
    (graph) => {
      const oldest = graph.op('Sub', [graph.queries(), graph.scalar(4096)]);
      const recent = graph.op('Greater', [graph.keys(), oldest]);
      return graph.added(graph.wide(graph.op('And', [graph.causal(), recent])));
    },
    undefined,
  ],
  ['a triangle in a constant', (graph) => graph.added(fromTable(graph, (row, column) => column <= row)), 'causal'],
  [
    'a sliding window in a constant',
    (graph) => graph.added(fromTable(graph, (row, column) => column <= row && column > row - 20)),
    undefined,
  ],
  ['no order at all', (graph) => graph.added(graph.marked()), undefined],
  ['a weak mask', (graph) => graph.added(graph.wide(graph.causal()), -5), undefined],
  [
    'distances',
    (graph) => {
      const distance = graph.op('Sub', [graph.keys(), graph.queries()]);
      return graph.op('Add', [both(graph), graph.wide(graph.op('Cast', [distance], { attributes: { to: int(1) } }))]);
    },
    undefined,
  ],
  [
    'contents of another input',
    (graph) => {
      const types = graph.op('Unsqueeze', [graph.input('token_type_ids', ['b', 's'], 'int64'), graph.integers(1, 3)]);
      const prefix = graph.op('Cast', [types], { attributes: { to: int(9) } });
      return graph.added(graph.op('Or', [graph.wide(graph.causal()), prefix]));
    },
    undefined,
  ],
];

describe('analyze: what a mask says', () => {
  for (const [what, write, meaning] of masks)
    it(`${what}: ${meaning ?? 'something else'}`, () => {
      const graph = new MaskGraph();
      const value = write(graph);
      const reader = new MaskReader(graph.graph, new Shapes(graph.model), graph.attentionMask);
      equal(reader.meaning({ kind: 'added', value }), meaning);
    });

  it('knows a count of marks from the size of attention_mask', () => {
    const graph = new MaskGraph();
    const sum = graph.op('ReduceSum', [graph.attentionMask, graph.integers(1)], { attributes: { keepdims: int(0) } });
    const counted = graph.op('Sub', [sum, graph.scalar(1)]);
    const sized = graph.op('Sub', [graph.size(graph.attentionMask, 1), graph.scalar(1)]);
    const reader = new MaskReader(graph.graph, new Shapes(graph.model), graph.attentionMask);
    equal(reader.countsMarks(counted), true);
    equal(reader.countsMarks(sized), false);
  });
});
