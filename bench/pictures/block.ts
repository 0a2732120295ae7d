/** A transformer block before and after rewriting, node beside node. */
import { colours, fontFamily, heading, type Picture } from './chart.js';

interface Box {
  readonly text: string;
  /** First and last row that the box stands in. */
  readonly rows: readonly [number, number];
  /** What leaves it for the next box. */
  readonly gives?: 'codes';
  readonly note?: string;
  readonly ours?: boolean;
}

const one = (row: number): [number, number] => [row, row];
const float: readonly Box[] = [
  { text: 'RMSNorm', rows: one(0) },
  { text: 'MatMul  q, k, v', rows: one(1) },
  { text: 'RoPE, cache, attention', rows: one(2) },
  { text: 'MatMul  o', rows: one(4) },
  { text: '+ residual', rows: one(5) },
  { text: 'RMSNorm', rows: one(6) },
  { text: 'MatMul  gate,  MatMul  up', rows: one(7) },
  { text: 'SiLU(gate) · up', rows: one(8) },
  { text: 'MatMul  down', rows: one(9) },
  { text: '+ residual', rows: one(10) },
];
const rewritten: readonly Box[] = [
  {
    text: 'NormQuantize',
    rows: one(0),
    gives: 'codes',
    ours: true,
    note: 'normalizes, sorts channels, rounds to 4 bits',
  },
  { text: 'QuantGemm  q, k, v', rows: one(1), ours: true, note: 'products of codes; sums are scaled by group' },
  { text: 'RoPE, cache, attention', rows: one(2), note: 'as they were' },
  {
    text: 'Quantize',
    rows: one(3),
    gives: 'codes',
    ours: true,
    note: 'with a 4-bit cache both are one QuantKvAttention',
  },
  { text: 'QuantGemm  o', rows: one(4), ours: true },
  { text: 'NormQuantize', rows: [5, 6], gives: 'codes', ours: true, note: 'adds the residual and hands on the sum' },
  { text: 'QuantGemm  gate + up', rows: one(7), ours: true, note: 'one product, rows in the order that down reads' },
  {
    text: 'GatedActQuantize',
    rows: one(8),
    gives: 'codes',
    ours: true,
    note: 'SiLU, product and rounding in one pass',
  },
  { text: 'QuantGemm  down', rows: one(9), ours: true },
  { text: '+ residual', rows: one(10), note: 'by the next block’s NormQuantize' },
];

const top = 118;
const pitch = 46;
const box = { width: 190, height: 28 };
const y = (row: number): number => top + row * pitch;

function text(content: string, x: number, at: number, colour: string, style: object = {}): object {
  return {
    type: 'text',
    style: {
      text: content,
      x,
      y: at,
      fill: colour,
      fontSize: 12,
      fontFamily,
      textVerticalAlign: 'middle',
      ...style,
    },
  };
}

/** A line with a head at its end. Codes are a quarter of the bytes of floats or less: a line of their own colour. */
function arrow(x: number, from: number, to: number, codes: boolean): object[] {
  const colour = codes ? colours.orange : colours.grey;
  return [
    {
      type: 'line',
      shape: { x1: x, y1: from, x2: x, y2: to - 5 },
      style: { stroke: colour, lineWidth: codes ? 2.5 : 1.5 },
    },
    {
      type: 'polygon',
      shape: {
        points: [
          [x, to],
          [x - 4.5, to - 7],
          [x + 4.5, to - 7],
        ],
      },
      style: { fill: colour },
    },
  ];
}

/** The residual: past the boxes on the left, from `from` (the stream) into the box at `row`. */
function residual(x: number, from: number, row: number): object {
  const side = x - 18;
  return {
    type: 'polyline',
    shape: {
      points: [
        [x + box.width / 2, from],
        [side, from],
        [side, y(row)],
        [x, y(row)],
      ],
    },
    style: { stroke: colours.line, lineWidth: 1.5, fill: 'none' },
  };
}

function column(title: string, boxes: readonly Box[], x: number): object[] {
  const middle = x + box.width / 2;
  const enter = y(0) - box.height / 2 - 16;
  const between = y(5) + box.height / 2 + (boxes === float ? (pitch - box.height) / 2 : pitch / 2);
  return [
    text(title, x, top - 46, colours.ink, { fontSize: 13, fontWeight: 600 }),
    residual(x, enter, 5),
    residual(x, boxes === float ? between : y(6) - 4, 10),
    ...arrow(middle, enter, y(0) - box.height / 2, false),
    ...boxes.flatMap(({ text: name, rows: [first, last], gives, note, ours }, i) => {
      const next = boxes[i + 1];
      const bottom = y(last) + box.height / 2;
      return [
        ...(next ? arrow(middle, bottom, y(next.rows[0]) - box.height / 2, gives === 'codes') : []),
        {
          type: 'rect',
          shape: {
            x,
            y: y(first) - box.height / 2,
            width: box.width,
            height: bottom - y(first) + box.height / 2,
            r: 5,
          },
          style: { fill: colours.paper, stroke: ours ? colours.blue : colours.line, lineWidth: ours ? 1.8 : 1.2 },
        },
        text(name, middle, (y(first) + y(last)) / 2, ours ? colours.blue : colours.ink, {
          textAlign: 'center',
          fontWeight: ours ? 600 : 400,
        }),
        ...(note ? [text(note, x + box.width + 16, (y(first) + y(last)) / 2, colours.quiet, { fontSize: 11.5 })] : []),
      ];
    }),
  ];
}

export function block(): Picture {
  const keys = 690;
  return {
    width: 860,
    height: 620,
    title: 'A transformer block before and after rewriting',
    about:
      'Two columns of nodes: RMSNorm, MatMuls, attention and SiLU on the left; NormQuantize, QuantGemm, Quantize and GatedActQuantize in their places on the right, with codes instead of floats between most of them.',
    option: {
      title: heading(
        'What happens to a block',
        'Norms and activations round what they hand on, and norms add the residuals. The float stream between blocks stays.',
      ),
      graphic: {
        elements: [
          ...column('float graph', float, 50),
          ...column('rewritten', rewritten, 340),
          ...arrow(keys, top - 60, top - 36, true),
          text('codes and scales', keys + 12, top - 48, colours.quiet),
        ].map((element) => ({ silent: true, ...element })),
      },
    },
  };
}
