/**
 * npm run pictures: draws docs/img/*.svg from docs/data and the tables of docs/accuracy.md and docs/performance-cpu.md.
 * npm run pictures -- BENCH.json ATTENTION.json MODELS: first puts new measurements into docs/data: the two files that
 * `npm run bench:gpu` writes, and the folder that scripts/gpu-models.sh filled.
 */
import { mkdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { perplexity } from './accuracy.js';
import { decodeAttention } from './attention.js';
import { block } from './block.js';
import { svgOf, type Picture } from './chart.js';
import { onTheCpu } from './cpu.js';
import { wholeModel } from './models.js';
import { timesFaster, tops } from './products.js';
import { readResults, root, storeResults } from './results.js';

/** File names in docs/img with what they hold. */
export function drawPictures(): Map<string, string> {
  const { accuracy, attention, generation, models, products } = readResults();
  const pictures: [string, Picture][] = [
    ['block.svg', block()],
    ['perplexity.svg', perplexity(accuracy)],
    ['cpu.svg', onTheCpu(generation)],
    ['whole-model.svg', wholeModel(models)],
    ['products-tops.svg', tops(products)],
    ['products-speedup.svg', timesFaster(products)],
    ['decode-attention.svg', decodeAttention(attention)],
  ];
  return new Map(pictures.map(([file, picture]) => [file, svgOf(picture)]));
}

/** Writes docs/img; the names of its files. */
export function writePictures(): string[] {
  const pictures = drawPictures();
  mkdirSync(join(root, 'docs/img'), { recursive: true });
  for (const [file, svg] of pictures) writeFileSync(join(root, 'docs/img', file), svg);
  return [...pictures.keys()];
}

function main(words: readonly string[]): number {
  if (words.length !== 0 && words.length !== 3) {
    console.error(`pictures: ${words.length} arguments, expected none or BENCH.json ATTENTION.json MODELS_FOLDER.`);
    return 2;
  }
  const [bench, attention, models] = words;
  if (bench && attention && models) storeResults(bench, attention, models);
  for (const file of writePictures()) console.log(`docs/img/${file}`);
  return 0;
}

if (process.argv[1] === fileURLToPath(import.meta.url)) process.exitCode = main(process.argv.slice(2));
