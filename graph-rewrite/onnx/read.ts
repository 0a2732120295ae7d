// .onnx file → Model. The file is held in memory once; weights are views on it, external weights stay on disk.
import { closeSync, fstatSync, openSync, readFileSync } from 'node:fs';
import { dirname, resolve } from 'node:path';

import { inputError } from '../../ops/common/errors.js';
import { checkModel } from '../ir/check.js';
import { Model } from '../ir/model.js';
import { ExternalData } from './external-data.js';
import { graphFromProto } from './graph-from-proto.js';
import { fromInt64 } from './int64.js';
import { decodeModel, isDecodedTensor, mapMessages, type ModelProto } from './messages.js';
import { EXTERNAL } from './tensor-proto.js';

export interface LoadOptions {
  /** false reads the graph of a model whose data files are not there; asking for such data then fails. Default true. */
  requireData?: boolean;
}

/**
 * Reads a model. Everything in it that this program does not know is kept and written back by `saveModel`.
 * @throws LowbitError 'input': no such file, not an ONNX model, truncated, a graph that is none (see `checkModel`), external data missing, short or outside its folder
 */
export function loadModel(path: string, options: LoadOptions = {}): Model {
  const file = resolve(path);
  const proto = decode(readWhole(path), path);
  const externalData = new ExternalData(file);
  const requireData = options.requireData ?? true;
  // Every tensor, also in functions and attributes, so that a bad reference shows now and not in the middle of a rewrite.
  mapMessages(proto, (message) => {
    if (!isDecodedTensor(message)) return undefined;
    if (message.dataLocation === EXTERNAL) externalData.open(message, requireData);
    return message;
  });
  const model = new Model(
    {
      irVersion: proto.irVersion ? Number(fromInt64(proto.irVersion)) : 0,
      opsetImports: (proto.opsetImport ?? []).map((entry) => [domainOf(entry.domain), version(entry.version)]),
      producerName: proto.producerName ?? '',
      producerVersion: proto.producerVersion ?? '',
      metadata: (proto.metadataProps ?? []).map((entry) => [entry.key ?? '', entry.value ?? '']),
      dir: dirname(file),
      path: file,
    },
    { proto, externalData },
  );
  graphFromProto(model.graph, proto.graph ?? {}, (tensor) => externalData.open(tensor, false));
  checkModel(model);
  return model;
}

/** 'ai.onnx' is the long name of the default domain. */
export function domainOf(domain: string | undefined): string {
  return domain === undefined || domain === 'ai.onnx' ? '' : domain;
}

function version(value: Parameters<typeof fromInt64>[0] | undefined): number {
  return value ? Number(fromInt64(value)) : 0;
}

function readWhole(path: string): Buffer {
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (error) {
    const { code } = error as NodeJS.ErrnoException;
    throw inputError(path, code === 'ENOENT' ? 'no such file' : `cannot be opened (${code})`, '', error);
  }
  try {
    const stat = fstatSync(file);
    if (!stat.isFile()) throw inputError(path, 'is not a file, expected an .onnx file');
    if (stat.size >= 2 ** 31) {
      throw inputError(
        path,
        `has ${stat.size} bytes, expected less than 2 GiB`,
        'Larger models keep their weights in a data file.',
      );
    }
    return readFileSync(file);
  } finally {
    closeSync(file);
  }
}

function decode(buffer: Buffer, path: string): ModelProto {
  const hint = 'Give the .onnx file of a model.';
  if (buffer.length === 0) throw inputError(path, 'is empty, expected an ONNX model', hint);
  if (buffer.subarray(0, 23).toString('latin1') === 'version https://git-lfs') {
    throw inputError(path, 'is a Git LFS pointer, expected the model itself', 'Fetch it with `git lfs pull`.');
  }
  let model: ModelProto;
  try {
    model = decodeModel(buffer);
  } catch (error) {
    // A model begins with its IR version (field 1) almost always; then the rest is missing, otherwise it never was a model.
    const found = buffer[0] === 0x08 ? 'is truncated or damaged, expected a whole ONNX model' : 'is not an ONNX model';
    throw inputError(path, found, hint, error);
  }
  if (!model.graph) throw inputError(path, 'is not an ONNX model: it holds no graph', hint);
  return model;
}
