/** What each recipe costs: perplexity of bookworm-11m, as trained and with outlier channels. */
import { axis, colours, heading, legend, type Picture } from './chart.js';
import { dotSeries, rowAxis } from './dots.js';
import type { Accuracy } from './results.js';

const atom = 'W4A4 + 128 INT8 outliers, per token';
/** Recipes by their names, and the rows of docs/accuracy.md they are. */
const recipes = [
  { name: 'float32', base: 'float32', scheme: 'float32' },
  { name: 'w8a8', base: 'W8A8, per token / per channel', scheme: 'W8A8, per token / per channel' },
  { name: 'kv4', base: '4-bit cache alone', scheme: '4-bit cache alone' },
  { name: 'zeroquant-fp-w4a8', base: 'W4A8 float, g128', scheme: '… + GPTQ' },
  { name: 'w4a16, GPTQ', base: 'W4A16 g128, GPTQ', scheme: 'W4A16 g128, GPTQ' },
  { name: 'w4a16', base: 'W4A16 g128', scheme: 'W4A16 g128' },
  { name: 'atom-w4a4', base: atom, scheme: '… + GPTQ' },
  { name: 'atom-w4a4, scales 2ⁿ', base: atom, scheme: '… + GPTQ, scales in powers of two' },
  { name: 'atom-w4a4kv4', base: atom, scheme: '… + 4-bit cache (Atom in full)' },
  { name: 'w4a4-g128', base: 'W4A4 g128', scheme: 'W4A4 g128' },
  { name: 'w4a4', base: 'W4A4, per token / per channel', scheme: 'W4A4, per token / per channel' },
];
const plain = 'genai plain';
const injected = 'genai injected';
const max = 36;

export function perplexity(rows: readonly Accuracy[]): Picture {
  const found = recipes.map(({ name, base, scheme }) => {
    const row = rows.find((each) => each.base === base && each.scheme === scheme);
    if (row === undefined)
      throw new Error(`docs/accuracy.md: no row "${scheme}" under "${base}", expected one for ${name}.`);
    return { name, ...row };
  });
  /** A cache alone rewrites no layer, so its row counts no bits of weights. */
  const bits = (row: Accuracy): string => (row.columns['bits'] || 32).toFixed(2).replace(/\.00$/, '');
  const value = (v: number): string => (v < 1000 ? v.toFixed(1) : Math.round(v).toLocaleString('en-US'));
  return {
    width: 760,
    height: 430,
    title: 'Perplexity of bookworm-11m under each recipe',
    about:
      'Dot plot: 8 bits cost next to nothing, Atom costs about the same with and without outlier channels, plain 4 bits fail with them.',
    option: {
      title: heading(
        'What each recipe costs: perplexity of bookworm-11m',
        '100 windows of 512 tokens, rewritten and run on the CPU; lower is better. Left: bits per linear weight.',
      ),
      legend: legend(
        [
          { name: 'as trained', icon: 'circle' },
          { name: 'with outlier channels 32 × the rest', icon: 'diamond' },
        ],
        58,
      ),
      grid: { left: 196, top: 92, width: 478, height: 290 },
      xAxis: axis({ type: 'value', min: 21, max, interval: 3 }, true),
      yAxis: rowAxis(found.map((row) => `${row.name}  ·  ${bits(row)}`)),
      series: dotSeries(
        [
          {
            name: 'as trained',
            colour: colours.blue,
            symbol: 'circle',
            values: found.map(({ columns }) => columns[plain]),
            text: value,
            position: 'left',
          },
          {
            name: 'with outlier channels 32 × the rest',
            colour: colours.orange,
            symbol: 'diamond',
            values: found.map(({ name, columns }) => (name === 'float32' ? undefined : columns[injected])),
            text: value,
            position: 'right',
          },
        ],
        max,
      ),
    },
  };
}
