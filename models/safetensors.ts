// Reads safetensors files: an 8-byte header length, a JSON header, then the data of all tensors.
import { readFileSync, existsSync, statSync } from 'node:fs';
import { basename, dirname, join } from 'node:path';

import { inputError } from '../ops/common/errors.js';
import { byteLength, type KnownDType } from '../graph-rewrite/onnx/dtype.js';
import { readFileRange } from '../graph-rewrite/onnx/file-range.js';
import type { Tensor } from '../graph-rewrite/ir/tensor.js';

const dtypes: Readonly<Record<string, KnownDType>> = {
  F64: 'float64',
  F32: 'float32',
  F16: 'float16',
  BF16: 'bfloat16',
  I64: 'int64',
  I32: 'int32',
  I16: 'int16',
  I8: 'int8',
  U8: 'uint8',
  BOOL: 'bool',
};

interface Entry {
  dtype: string;
  shape: number[];
  data_offsets: [start: number, end: number];
}

/**
 * The tensors of a model folder: of `model.safetensors`, or of the files that `model.safetensors.index.json` lists. Data is read when
 * it is asked for.
 * @throws LowbitError 'input' if neither is there or a file is damaged
 */
export function openSafetensors(folder: string): Map<string, Tensor> {
  const single = join(folder, 'model.safetensors');
  if (existsSync(single)) return readSafetensors(single);
  const index = `${single}.index.json`;
  if (!existsSync(index)) throw inputError(folder, 'holds neither model.safetensors nor model.safetensors.index.json');
  const { weight_map: files } = JSON.parse(readFileSync(index, 'utf8')) as { weight_map: Record<string, string> };
  const parts = [...new Set(Object.values(files))].map((file) => readSafetensors(join(dirname(index), basename(file))));
  return new Map(parts.flatMap((part) => [...part]));
}

/** The tensors of one file, by name. See `openSafetensors`. */
export function readSafetensors(path: string): Map<string, Tensor> {
  const headerLength = Number(new DataView(readFileRange(path, 0, 8, path).slice().buffer).getBigUint64(0, true));
  if (headerLength > statSync(path).size - 8) throw inputError(path, 'is not a safetensors file, or is truncated');
  const header = JSON.parse(Buffer.from(readFileRange(path, 8, headerLength, path)).toString('utf8')) as Record<
    string,
    Entry
  >;
  const tensors = new Map<string, Tensor>();
  for (const [name, entry] of Object.entries(header)) {
    if (name !== '__metadata__') tensors.set(name, tensorAt(path, 8 + headerLength, name, entry));
  }
  return tensors;
}

function tensorAt(path: string, dataStart: number, name: string, entry: Entry): Tensor {
  const at = `${path}: tensor "${name}"`;
  const dtype = dtypes[entry.dtype];
  if (!dtype) throw inputError(at, `is of type ${entry.dtype}, expected one of ${Object.keys(dtypes).join(', ')}`);
  const [start, end] = entry.data_offsets;
  const expected = byteLength(
    dtype,
    entry.shape.reduce((a, b) => a * b, 1),
  );
  if (end - start !== expected) throw inputError(at, `has ${end - start} bytes, expected ${expected}`);
  const read = (from: number, length: number) => readFileRange(path, dataStart + start + from, length, at);
  return { dtype, dims: entry.shape, byteLength: expected, read, bytes: () => read(0, expected) };
}
