/**
 * What all pictures of the documentation share: colours that turn with the reader's light or dark mode, axes, and how a chart becomes
 * an SVG file. Text stays text, so that it is sharp, can be searched and needs no font of ours.
 */
import { BarChart, CustomChart, LineChart, ScatterChart } from 'echarts/charts';
import { GraphicComponent, GridComponent, LegendComponent, TitleComponent } from 'echarts/components';
import { init, use, type EChartsCoreOption } from 'echarts/core';
import { SVGRenderer } from 'echarts/renderers';

use([
  BarChart,
  CustomChart,
  LineChart,
  ScatterChart,
  GraphicComponent,
  GridComponent,
  LegendComponent,
  TitleComponent,
  SVGRenderer,
]);

/** Colours in light mode; `dark` has what each becomes. */
export const colours = {
  paper: '#ffffff',
  ink: '#1f2328',
  quiet: '#59636e',
  line: '#d1d9e0',
  blue: '#0969da',
  orange: '#bc4c00',
  green: '#1a7f37',
  purple: '#8250df',
  pink: '#bf3989',
  grey: '#818b98',
} as const;

const dark: Readonly<Record<keyof typeof colours, string>> = {
  paper: '#0d1117',
  ink: '#f0f6fc',
  quiet: '#9198a1',
  line: '#3d444d',
  blue: '#4493f8',
  orange: '#f0883e',
  green: '#3fb950',
  purple: '#ab7df8',
  pink: '#db61a2',
  grey: '#7d8590',
};

export const fontFamily = "system-ui, -apple-system, 'Segoe UI', 'Noto Sans', Helvetica, Arial, sans-serif";

/** A chart as it is drawn: `about` is what a reader hears who cannot see it. */
export interface Picture {
  readonly width: number;
  readonly height: number;
  readonly title: string;
  readonly about: string;
  readonly option: EChartsCoreOption;
}

/** The title of a picture, and below it in grey how to read it. */
export function heading(text: string, subtext: string): object {
  return {
    text,
    subtext,
    left: 16,
    top: 10,
    itemGap: 6,
    textStyle: { color: colours.ink, fontSize: 16, fontWeight: 600, fontFamily },
    subtextStyle: { color: colours.quiet, fontSize: 12, fontFamily },
  };
}

/** The title of one panel among several. */
export function panelTitle(text: string, left: number | string, top: number): object {
  return { text, left, top, textStyle: { color: colours.ink, fontSize: 13, fontWeight: 600, fontFamily } };
}

/** An axis: quiet labels, hairlines only across the direction in which values are read. */
export function axis(options: object, hairlines: boolean): object {
  return {
    axisLine: { show: !hairlines, lineStyle: { color: colours.line } },
    axisTick: { show: false },
    axisLabel: { color: colours.quiet, fontSize: 11, fontFamily },
    nameTextStyle: { color: colours.quiet, fontSize: 11, fontFamily },
    splitLine: { show: hairlines, lineStyle: { color: colours.line } },
    ...options,
  };
}

/** A label beside a mark, in the mark's colour. */
export function label(colour: string, options: object): object {
  return { show: true, color: colour, fontSize: 11, fontFamily, ...options };
}

/** Names of series with their marks: `icon` is a symbol of ECharts; lines have none and show their stroke. */
export function legend(entries: readonly { name: string; icon?: string }[], top: number): object {
  return {
    data: entries,
    top,
    left: 12,
    itemGap: 18,
    itemHeight: 11,
    ...(entries.every(({ icon }) => icon) ? { itemWidth: 11 } : { itemWidth: 24, itemStyle: { opacity: 0 } }),
    textStyle: { color: colours.ink, fontSize: 12, fontFamily },
  };
}

/** The SVG file of a picture: the same bytes for the same data, whoever draws it. */
export function svgOf({ width, height, title, about, option }: Picture): string {
  const chart = init(null, null, { renderer: 'svg', ssr: true, width, height });
  chart.setOption({ animation: false, backgroundColor: colours.paper, textStyle: { fontFamily }, ...option });
  const svg = chart.renderToSVGString();
  chart.dispose();
  // Less what only a page with a mouse has, and the number of this chart in the process, which is part of its identifiers.
  const body = svg
    .slice(svg.indexOf('>') + 1)
    .replace(/<style[^]*?<\/style>/, '')
    .replaceAll(/ (class="[^"]*"|pointer-events="[^"]*"|xml:space="[^"]*")/g, '')
    .replaceAll(`font-family:${fontFamily};`, '')
    .replaceAll(/zr\d+-/g, '')
    .replaceAll(/><\/(path|rect)>/g, '/>');
  return [
    `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" role="img" font-family="${fontFamily}">`,
    `<title>${escape(title)}</title>`,
    `<desc>${escape(about)}</desc>`,
    `<style>@media (prefers-color-scheme: dark) {${darkRules()}}</style>`,
    // A line for each element: a change of data is then a short difference.
    body.trim().replaceAll('><', '>\n<'),
    '',
  ].join('\n');
}

/** Attributes carry the light colours; a style sheet is stronger than an attribute. */
function darkRules(): string {
  return (Object.keys(colours) as (keyof typeof colours)[])
    .map((name) => `[fill="${colours[name]}"]{fill:${dark[name]}}[stroke="${colours[name]}"]{stroke:${dark[name]}}`)
    .join('');
}

function escape(text: string): string {
  return text.replaceAll('&', '&amp;').replaceAll('<', '&lt;');
}
