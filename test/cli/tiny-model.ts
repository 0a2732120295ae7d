/** Small float models with random weights, for tests of everything around the arithmetic. */
import { writeFileSync } from 'node:fs';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import { buildLlama } from '../../models/build-llama.js';
import { presets, type LlamaConfig } from '../../models/llama-config.js';
import { randomSource } from '../../models/weights.js';
import { scratch, type Folder } from './run-cli.js';

/**
 * Writes a LLaMA-shaped decoder of 256 tokens.
 * @param external false keeps the weights inside the model file
 */
export async function writeTinyModel(path: string, external = true, shape: Partial<LlamaConfig> = {}): Promise<string> {
  const model = buildLlama({ ...presets['tiny']!, ...shape }, randomSource(1));
  await saveModel(model, path, external ? {} : { externalThreshold: Infinity });
  return path;
}

/** A folder with a small model and ids to calibrate it on, while the suite runs that calls this. */
export function tinyFolder(shape: Partial<LlamaConfig> = {}, tokens = 2049): TinyFolder {
  const folder = scratch();
  const [model, ids] = [folder.file('model.onnx'), folder.file('ids.npy')];
  before(async () => {
    await writeTinyModel(model, true, shape);
    writeFileSync(ids, tokenFile(tokens));
  });
  after(() => folder.remove());
  return { ...folder, model, ids };
}

export interface TinyFolder extends Folder {
  readonly model: string;
  readonly ids: string;
}

/** Token ids below 256 as a .npy file's bytes. */
export function tokenFile(count: number): Uint8Array {
  const header = `{'descr': '<u2', 'fortran_order': False, 'shape': (${count},), }`.padEnd(117) + '\n';
  const ids = Uint16Array.from({ length: count }, (_, i) => (i * 37 + (i >> 3)) % 256);
  return Buffer.concat([
    Buffer.from('\x93NUMPY\x01\x00v\x00', 'latin1'),
    Buffer.from(header, 'latin1'),
    Buffer.from(ids.buffer),
  ]);
}
