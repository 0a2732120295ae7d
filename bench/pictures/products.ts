/** Products on CUDA: TOPS by number of tokens, and how many times faster than cuBLAS in float16, a panel for each layer. */
import { axis, colours, heading, legend, panelTitle, type Picture } from './chart.js';
import type { Products } from './results.js';

type Shape = Products['gemm'][number];

/** Peers are grey: dotted, dashed, thin. */
const methods = [
  { key: 'cublas_fp16', name: 'cuBLAS fp16', colour: colours.grey, type: 'solid' },
  { key: 'cublas_fp8', name: 'cuBLAS fp8', colour: colours.grey, type: 'dashed' },
  { key: 'triton_fp8_g128', name: 'Triton fp8', colour: colours.grey, type: 'dotted' },
  { key: 'w8a8', name: 'w8a8', colour: colours.blue, type: 'solid' },
  { key: 'e2m1_pow2', name: 'e2m1 2ⁿ × e4m3', colour: colours.purple, type: 'solid' },
  { key: 'atom_w4a4', name: 'atom', colour: colours.orange, type: 'solid' },
  { key: 'atom_pow2', name: 'atom 2ⁿ', colour: colours.pink, type: 'solid' },
  { key: 'w4a16', name: 'w4a16', colour: colours.green, type: 'solid' },
] as const;

const width = 880;
const panel = { width: 372, height: 190 };

/** Four panels, one for each (K, N), in the order in which they were measured. */
function panels(
  shapes: readonly Shape[],
  title: string,
  subtext: string,
  about: string,
  value: (shape: Shape, method: string) => number | undefined,
  interval: number,
): Picture {
  const layers = [...new Map(shapes.map((s) => [`${s.K}×${s.N}`, s] as const)).values()];
  const place = (i: number): { left: number; top: number } => ({
    left: 50 + (i % 2) * 425,
    top: 128 + Math.floor(i / 2) * 262,
  });
  const tokens = [...new Set(shapes.map((s) => s.M))].sort((a, b) => a - b);
  const drawn = methods.filter(({ key }) => shapes.some((s) => value(s, key) !== undefined));
  const highest = Math.max(...shapes.flatMap((s) => drawn.map(({ key }) => value(s, key) ?? 0)));
  const max = Math.ceil(highest / interval) * interval;
  return {
    width,
    height: 650,
    title,
    about,
    option: {
      title: [
        heading(title, subtext),
        ...layers.map(({ K, N }, i) => panelTitle(`K ${K}, N ${N}`, place(i).left - 5, place(i).top - 34)),
      ],
      legend: legend(
        drawn.map(({ name }) => ({ name })),
        58,
      ),
      grid: layers.map((_, i) => ({ ...place(i), ...panel })),
      xAxis: layers.map((_, i) =>
        axis(
          {
            type: 'category',
            data: tokens.map(String),
            gridIndex: i,
            boundaryGap: false,
            ...(i >= 2 ? { name: 'tokens (M)', nameLocation: 'middle', nameGap: 26 } : {}),
          },
          false,
        ),
      ),
      yAxis: layers.map((_, i) => axis({ type: 'value', gridIndex: i, min: 0, max, interval }, true)),
      series: layers.flatMap(({ K, N }, i) =>
        drawn.map(({ key, name, colour, type }) => ({
          name,
          type: 'line',
          xAxisIndex: i,
          yAxisIndex: i,
          symbol: 'none',
          lineStyle: { color: colour, width: colour === colours.grey ? 1.5 : 2.2, type },
          itemStyle: { color: colour },
          data: tokens.map((m) => {
            const shape = shapes.find((s) => s.M === m && s.K === K && s.N === N);
            return (shape && value(shape, key)) ?? null;
          }),
        })),
      ),
    },
  };
}

/** Operations a second, one multiplication and one addition for each weight and token. */
export function tops({ gemm }: Products): Picture {
  const from = 64;
  return panels(
    gemm.filter(({ M }) => M >= from),
    'Products on one H200: TOPS by number of tokens',
    `TOPS or TFLOP/s from ${from} tokens on; higher is better. 2ⁿ: group scales are powers of two. atom is stored for sm90.`,
    'Line charts of TOPS against tokens, one for each layer: w8a8 runs with cuBLAS fp8, atom and w4a16 with cuBLAS fp16.',
    ({ M, K, N, us }, method) => (us[method] === undefined ? undefined : (2e-6 * M * N * K) / us[method]),
    500,
  );
}

/** All numbers of tokens; the peers of many tokens are in `tops`. */
export function timesFaster({ gemm }: Products): Picture {
  return panels(
    gemm,
    'Products on one H200: times as fast as cuBLAS in float16',
    'Above 1: faster. Weights come from memory, not from the cache. 2ⁿ: group scales are powers of two. atom is stored for sm90.',
    'Line charts of speed relative to cuBLAS float16, one for each layer: 4-bit weights are fastest with few tokens, w8a8 with many.',
    ({ us }, method) =>
      us[method] === undefined || us['cublas_fp16'] === undefined ? undefined : us['cublas_fp16'] / us[method],
    1,
  );
}
