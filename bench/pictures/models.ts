/** A whole model of LLaMA-7B's shape: tokens a second by batch, for those models that were measured. */
import { axis, colours, heading, label, type Picture } from './chart.js';
import type { Models } from './results.js';

const inPlace = 'atom-w4a4kv4_sm90_kv.form_in_place';
const series = [
  { file: 'float16', name: 'float16, ONNX Runtime', colour: colours.grey },
  { file: 'atom-w4a4_sm90', name: 'atom-w4a4', colour: colours.green },
  { file: inPlace, name: 'atom-w4a4kv4', colour: colours.orange },
  { file: `${inPlace}_weight.scaleConstraint_m2`, name: 'atom-w4a4kv4, powers of two', colour: colours.pink },
  { file: `${inPlace}_kv.rope_post`, name: 'atom-w4a4kv4, keys after RoPE', colour: colours.blue },
] as const;

/** `decode:16x1024`: batch, context. */
const batchOf = (name = ''): number => Number(/^decode:(\d+)x/.exec(name)?.[1]);

export function wholeModel(models: Models): Picture {
  const lines = series.flatMap((each) => {
    const points = (models[`whole-${each.file}-32`]?.results ?? []).flatMap(
      ({ case: name, tokensPerSecond, peakMiB }) =>
        tokensPerSecond === undefined ? [] : [{ batch: batchOf(name), tokensPerSecond, gib: peakMiB / 1024 }],
    );
    return points.length === 0 ? [] : [{ ...each, points }];
  });
  const most = Math.max(...lines.flatMap(({ points }) => points.map(({ tokensPerSecond }) => tokensPerSecond)));
  return {
    width: 780,
    height: 400,
    title: 'A model of LLaMA-7B’s shape on one H200: decode, tokens a second',
    about:
      'Line chart of tokens a second against batch: with a 4-bit cache the model stays ahead of float16 at every batch.',
    option: {
      title: heading(
        'A model of LLaMA-7B’s shape on one H200: decode, tokens/s',
        'Context 1024, a CUDA graph a step. Beside a line: tokens/s and memory at the largest batch.',
      ),
      grid: { left: 64, top: 84, width: 480, height: 250 },
      xAxis: axis(
        {
          type: 'value',
          min: 0,
          max: 128,
          interval: 16,
          name: 'sequences in the batch',
          nameLocation: 'middle',
          nameGap: 28,
        },
        false,
      ),
      yAxis: axis({ type: 'value', min: 0, max: Math.ceil(most / 2000) * 2000, interval: 2000 }, true),
      series: lines.map(({ name, colour, points }) => ({
        name,
        type: 'line',
        symbol: 'circle',
        symbolSize: 7,
        lineStyle: { color: colour, width: 2.2 },
        itemStyle: { color: colour },
        data: points.map(({ batch, tokensPerSecond }) => [batch, Math.round(tokensPerSecond)]),
        endLabel: label(colour, {
          distance: 10,
          lineHeight: 14,
          formatter: () => `${name}\n${endOf(points)}`,
        }),
        labelLayout: { moveOverlap: 'shiftY' },
      })),
    },
  };
}

function endOf(points: readonly { tokensPerSecond: number; gib: number }[]): string {
  const { tokensPerSecond, gib } = points.at(-1)!;
  return `${Math.round(tokensPerSecond)}, ${Math.round(gib)} GiB`;
}
