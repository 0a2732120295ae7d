/** Dot plots: a row for each case, a dot for each method, values along x. */
import { axis, colours, label } from './chart.js';

export interface DotSeries {
  readonly name: string;
  readonly colour: string;
  readonly symbol: string;
  /** A value for each row; a row may have none. */
  readonly values: readonly (number | undefined)[];
  /** What is written beside a dot. */
  readonly text: (value: number, row: number) => string;
  readonly position: 'left' | 'right' | 'top' | 'bottom';
}

/**
 * The series of one panel: a thin line through the dots of a row, then the dots. A value beyond `max` stands at the edge with an
 * arrow.
 */
export function dotSeries(series: readonly DotSeries[], max: number, panel = 0): object[] {
  const rows = Math.max(...series.map(({ values }) => values.length));
  const spans = Array.from({ length: rows }, (_, row) => {
    const found = series.flatMap(({ values }) => (values[row] === undefined ? [] : [Math.min(values[row], max)]));
    return [row, Math.min(...found), Math.max(...found)];
  });
  return [
    {
      type: 'custom',
      silent: true,
      xAxisIndex: panel,
      yAxisIndex: panel,
      renderItem: (_: unknown, api: { value(i: number): number; coord(at: number[]): number[] }) => {
        const [x1, y] = api.coord([api.value(1), api.value(0)]);
        const [x2] = api.coord([api.value(2), api.value(0)]);
        return { type: 'line', shape: { x1, y1: y, x2, y2: y }, style: { stroke: colours.line, lineWidth: 3 } };
      },
      encode: { x: [1, 2], y: 0 },
      data: spans,
    },
    ...series.map(({ name, colour, symbol, values, text, position }) => ({
      name,
      type: 'scatter',
      xAxisIndex: panel,
      yAxisIndex: panel,
      symbolSize: 10,
      itemStyle: { color: colour, opacity: 1 },
      data: values.flatMap((value, row) => {
        if (value === undefined) return [];
        const beyond = value > max;
        return [
          {
            value: [Math.min(value, max), row],
            symbol: beyond ? 'triangle' : symbol,
            symbolRotate: beyond ? -90 : 0,
            label: label(colour, { position, formatter: () => text(value, row) }),
          },
        ];
      }),
    })),
  ];
}

/** Names of rows, the first on top. */
export function rowAxis(names: readonly string[], panel = 0): object {
  const { axisLabel, ...rest } = axis({}, false) as { axisLabel: object };
  return {
    ...rest,
    axisLabel: { ...axisLabel, color: colours.ink, fontSize: 12 },
    type: 'category',
    data: names,
    inverse: true,
    gridIndex: panel,
  };
}
