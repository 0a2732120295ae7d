// bookworm-11m as ONNX: built by us, or the exports of PyTorch and onnxruntime-genai, restored from their graphs and the weights.
import { createHash } from 'node:crypto';
import { existsSync, mkdirSync, readFileSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';

import { inputError } from '../ops/common/errors.js';
import { loadModel } from '../graph-rewrite/onnx/read.js';
import { saveModel, type SaveOptions } from '../graph-rewrite/onnx/write.js';
import type { Model } from '../graph-rewrite/ir/model.js';
import { buildLlama } from './build-llama.js';
import { readConfig } from './llama-config.js';
import { openSafetensors } from './safetensors.js';
import { plain, safetensorsSource, transposed } from './weights.js';

/** Compiled code runs from dist/models; the files stay where they are in the repository. */
export const bookwormFolder = fileURLToPath(new URL('../../models/bookworm-11m', import.meta.url));

export type BookwormKind = 'built' | 'dynamo' | 'genai';

/** How a weight of an export follows from the safetensors file. */
interface WeightMapping {
  /** Tensors of model.safetensors; several stand side by side. */
  from: string[];
  /** KN: transposed, the second input of a MatMul. NK: as stored. */
  layout: 'KN' | 'NK';
  /** Of the float32 data. */
  sha256: string;
}

/**
 * Writes bookworm-11m (float32, 44 MB) into a folder, unless it is there already.
 * `dynamo`: PyTorch's exporter, opset 18, weights inside the file. `genai`: onnxruntime-genai's model builder, data file.
 * `built`: our builder, GroupQueryAttention, data file.
 * @returns path of the .onnx file, `<folder>/bookworm-<kind>.onnx`
 */
export async function materializeBookworm(
  kind: BookwormKind,
  folder: string,
  options: SaveOptions = {},
): Promise<string> {
  const path = join(folder, `bookworm-${kind}.onnx`);
  if (existsSync(path)) return path;
  mkdirSync(folder, { recursive: true });
  const model =
    kind === 'built' ? buildLlama(readConfig(bookwormFolder), safetensorsSource(bookwormFolder)) : restoreExport(kind);
  await saveModel(model, path, { ...options, ...(kind === 'dynamo' ? { externalThreshold: Infinity } : {}) });
  return path;
}

/** An export, its weights coming from model.safetensors. */
export function restoreExport(kind: 'dynamo' | 'genai'): Model {
  const model = loadModel(join(bookwormFolder, `onnx-${kind}`, 'graph.onnx'), { requireData: false });
  const weights = openSafetensors(bookwormFolder);
  for (const [name, { from, layout }] of Object.entries(exportMapping(kind))) {
    const sources = from.map((source) => weights.get(source)!);
    const tensor = layout === 'KN' ? transposed(sources, 'float32') : plain(sources[0]!, 'float32');
    model.graph.value(name)!.initializer = tensor;
  }
  return model;
}

/** Checks the weights of a restored export against those of the original. Throws LowbitError 'input' naming the first that differs. */
export function verifyExport(kind: 'dynamo' | 'genai', model: Model): void {
  for (const [name, { sha256 }] of Object.entries(exportMapping(kind))) {
    const digest = createHash('sha256').update(model.graph.value(name)!.initializer!.bytes()).digest('hex');
    if (digest !== sha256)
      throw inputError(`bookworm-${kind}: weight "${name}"`, `has sha256 ${digest}, expected ${sha256}`);
  }
}

function exportMapping(kind: 'dynamo' | 'genai'): Record<string, WeightMapping> {
  const path = join(bookwormFolder, `onnx-${kind}`, 'weights.json');
  return JSON.parse(readFileSync(path, 'utf8')) as Record<string, WeightMapping>;
}
