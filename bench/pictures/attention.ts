/** Attention of one new token over a 4-bit cache, beside PyTorch's over float16. */
import { axis, colours, heading, legend, panelTitle, type Picture } from './chart.js';
import { dotSeries, rowAxis } from './dots.js';
import type { Attention } from './results.js';

const methods = [
  { key: 'post', name: '4 bits, keys after RoPE', colour: colours.blue, symbol: 'circle', position: 'left' },
  { key: 'pre', name: '4 bits, keys before RoPE', colour: colours.orange, symbol: 'diamond', position: 'bottom' },
  { key: 'torch_f16', name: 'PyTorch, float16 cache', colour: colours.grey, symbol: 'rect', position: 'right' },
] as const;

export function decodeAttention({ decode }: Attention): Picture {
  const heads = [...new Set(decode.map(({ kv_heads }) => kv_heads))];
  const cases = heads.map((kvHeads) => decode.filter(({ bits, kv_heads }) => bits === 4 && kv_heads === kvHeads));
  const names = cases[0]!.map(({ batch, context }) => `${batch} × ${context}`);
  const max = 1000;
  const left = (i: number): number => 90 + i * 420;
  return {
    width: 880,
    height: 320,
    title: 'Attention of one new token on one H200, µs',
    about:
      'Dot plot of times: attention over a 4-bit cache takes a fraction of the time of attention over a float16 cache.',
    option: {
      title: [
        heading(
          'Attention of one new token on one H200, µs',
          'Rows: batch × context, 32 query heads of 128 channels. Logarithmic: a step of the grid is ten times. Left is better.',
        ),
        ...heads.map((kvHeads, i) => panelTitle(`${kvHeads} kv heads`, left(i) - 5, 92)),
      ],
      legend: legend(
        methods.map(({ name, symbol }) => ({ name, icon: symbol })),
        58,
      ),
      grid: heads.map((_, i) => ({ left: left(i), top: 120, width: 310, height: 150 })),
      xAxis: heads.map((_, i) => axis({ type: 'log', min: 1, max, gridIndex: i }, true)),
      yAxis: heads.map((_, i) => rowAxis(i === 0 ? names : names.map(() => ''), i)),
      series: cases.flatMap((rows, i) =>
        dotSeries(
          methods.map(({ key, ...style }) => ({
            ...style,
            values: rows.map(({ us }) => us[key]),
            text: (us: number, row: number) =>
              key === 'torch_f16'
                ? `${us.toFixed(0)}  (${(us / rows[row]!.us['post']!).toFixed(1)} ×)`
                : key === 'post'
                  ? us.toFixed(us < 20 ? 1 : 0)
                  : '',
          })),
          max,
          i,
        ),
      ),
    },
  };
}
