/**
 * Writes the models of the layer stack benchmark, see models/layer-stack.ts.
 * usage: node dist/bench/gpu/write-stack.js FOLDER LAYERS [--small] NAME…   (NAME: float16, or a recipe with target and settings: atom-w4a4@sm90,kv.bits=4)
 */
import { mkdirSync } from 'node:fs';
import { join } from 'node:path';
import { findRecipe, saveModel, withSettings, type Recipe } from '../../graph-rewrite/index.js';
import { forTarget, type Target } from '../../graph-rewrite/recipes/index.js';
import { buildStack } from '../../models/layer-stack.js';
import { presets, type LlamaConfig } from '../../models/llama-config.js';
import { log } from './device.js';

/** Head size 128 and channels enough for Atom's outliers, as in the 7B model, but small. */
const small: LlamaConfig = { ...presets['7b']!, hidden: 512, mlp: 1024, heads: 4, kvHeads: 4, vocab: 1000 };

const [folder, layers, ...rest] = process.argv.slice(2);
const names = rest.filter((each) => each !== '--small');
if (folder === undefined || layers === undefined || names.length === 0) {
  console.error('write-stack: too few arguments, expected FOLDER LAYERS [--small] NAME…');
  process.exit(2);
}
mkdirSync(folder, { recursive: true });
const shape = rest.includes('--small') ? small : presets['7b']!;
const config = { ...shape, layers: Number(layers), maxPositions: 4352 };
for (const name of names) {
  const file = join(folder, `${name.replaceAll(/[^\w.-]/g, '_')}-${layers}.onnx`);
  const model = buildStack(config, 'float16', name === 'float16' ? undefined : recipeOf(name));
  const { bytes } = await saveModel(model, file, { force: true });
  log(`${file}: ${(bytes / 1e6).toFixed(0)} MB`);
}

/** Weights rounded to nearest and no statistics to collect: neither changes speed. */
function recipeOf(text: string): Recipe {
  const [chosen, ...settings] = text.split(',');
  const [name, target = 'any'] = chosen!.split('@');
  return forTarget(withSettings(findRecipe(name!), ['weight.rounding=rtn', ...settings]), target as Target);
}
