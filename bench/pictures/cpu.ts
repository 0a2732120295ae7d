/** What the recipes gain on the CPU: tokens a second of a 1B model on one core. */
import { axis, colours, heading, label, panelTitle, type Picture } from './chart.js';
import { rowAxis } from './dots.js';
import type { Generation } from './results.js';

const panels = [
  { column: 'prompt, tokens/s', title: 'prompt of 128 tokens, tokens/s', left: 200 },
  { column: 'decode, tokens/s', title: 'writing 64 more, tokens/s', left: 520 },
] as const;

export function onTheCpu(generation: readonly Generation[]): Picture {
  const rows = generation.filter(({ model }) => model === '1B');
  const names = rows.map(({ recipe }) => recipe.replaceAll('`', '').replace('kv.form=in_place', 'in place'));
  return {
    width: 860,
    height: 260,
    title: 'A 1B model on one CPU core: tokens a second',
    about: 'Bars of tokens a second for float32, w8a8 and atom-w4a4kv4: three to four times as fast as float32.',
    option: {
      title: [
        heading(
          'A 1B model on one CPU core (AVX-512 VNNI): tokens/s',
          'TinyLlama’s shape, batch 1, CPU time of one thread. In brackets: times as fast as float32 in ONNX Runtime.',
        ),
        ...panels.map(({ title, left }) => panelTitle(title, left - 5, 62)),
      ],
      grid: panels.map(({ left }) => ({ left, top: 90, width: 200, height: 140 })),
      xAxis: panels.map((_, i) => axis({ type: 'value', min: 0, gridIndex: i, show: false }, false)),
      yAxis: panels.map((_, i) => rowAxis(i === 0 ? names : names.map(() => ''), i)),
      series: panels.map(({ column }, i) => ({
        type: 'bar',
        xAxisIndex: i,
        yAxisIndex: i,
        barWidth: 18,
        data: rows.map(({ columns }, row) => {
          const text = columns[column] ?? '';
          const colour = row === 0 ? colours.grey : colours.blue;
          return {
            value: Number.parseFloat(text),
            itemStyle: { color: colour },
            label: label(colour, { position: 'right', formatter: () => text }),
          };
        }),
      })),
    },
  };
}
