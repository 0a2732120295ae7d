// Model → .onnx file and data file, streamed: one tensor in memory at a time, temporary names until everything is written.
import { constants } from 'node:fs';
import { open, rename, rm, stat, type FileHandle } from 'node:fs/promises';
import { basename, dirname, join, relative, resolve } from 'node:path';

import { inputError, LowbitError, usageError } from '../../ops/common/errors.js';
import { checkModel } from '../ir/check.js';
import type { Model } from '../ir/model.js';
import type { Tensor } from '../ir/tensor.js';
import { bitsPerElement } from './dtype.js';
import { isExternal } from './external-data.js';
import {
  cloneMessage,
  encodeModel,
  isDecodedTensor,
  mapMessages,
  type EntryProto,
  type TensorProto,
} from './messages.js';
import { EXTERNAL } from './tensor-proto.js';
import { toProto, withData, type ProtoWithData } from './to-proto.js';
import { dataFieldsRemoved } from './typed-data.js';

/** Tensors start on page boundaries, so that a mapped file gives aligned pointers. */
const alignment = 4096;
const pieceBytes = 2 ** 24;

export interface SaveProgress {
  stage: 'save';
  done: number;
  total: number;
  /** The tensor being written. */
  detail: string;
}

export interface SaveOptions {
  /** Replace existing output files. */
  force?: boolean;
  /** Initializers of at least this many bytes go to the data file; Infinity keeps everything in the model file. Default 1024. */
  externalThreshold?: number;
  progress?: (progress: SaveProgress) => void;
  signal?: AbortSignal;
}

export interface SaveResult {
  /** Size of all files together. */
  bytes: number;
  /** Absolute paths, the model first. */
  files: string[];
}

interface Placed {
  tensor: Tensor;
  name: string;
  offset: number;
}

/** How the names begin that files have until they are whole. */
export const temporaryName = (file: string, pid: number | string): string => `.${file}.${pid}-`;

/**
 * Writes a model to `path`, and its large tensors to `<path>_data` beside it. Files appear whole or not at all: until everything is
 * written they have temporary names.
 * @throws LowbitError 'usage' if an output exists (without force) or is a file the model is read from; 'input' if it cannot be
 *   written; 'interrupted' when the signal aborts
 */
export async function saveModel(model: Model, path: string, options: SaveOptions = {}): Promise<SaveResult> {
  const target = resolve(path);
  const dataTarget = `${target}_data`;
  checkModel(model);
  const proto = toProto(model);
  const placed = placeTensors(proto, model, options.externalThreshold ?? 1024, basename(dataTarget));
  const targets = placed.tensors.length > 0 ? [target, dataTarget] : [target];
  await checkTargets(targets, model, options.force ?? false);
  const bytes = encode(proto, target);
  const suffix = `${Date.now().toString(36)}.tmp`;
  const temporary = targets.map((file) =>
    join(dirname(file), `${temporaryName(basename(file), process.pid)}${suffix}`),
  );
  const total = placed.bytes + bytes.byteLength;
  try {
    const [modelFile, dataFile] = temporary;
    if (dataFile) await writeFile(dataFile, (file) => writeTensors(file, placed.tensors, total, options, target));
    await writeFile(modelFile!, (file) => file.writeFile(bytes));
    throwIfAborted(options.signal, target);
    // The data first: a model without its data is worse than data without a model.
    for (let i = targets.length - 1; i >= 0; i--) {
      await rename(temporary[i]!, targets[i]!);
      if (!options.force) temporary[i] = targets[i]!; // new, so it goes too if the next one fails
    }
  } catch (error) {
    await Promise.all(temporary.map((file) => rm(file, { force: true }).catch(() => undefined)));
    throw describeFailure(error, target, total);
  }
  return { bytes: total, files: targets };
}

/**
 * The model as bytes, for a session from memory. With `externalDir`, tensors that still are in data files in that folder stay there
 * (the reader must look for them there); all other data is inside.
 * @throws LowbitError 'input' beyond 2 GiB
 */
export function serializeModel(model: Model, options: { externalDir?: string } = {}): Uint8Array {
  checkModel(model);
  const proto = toProto(model);
  const inline = (tensor: TensorProto, data: Tensor): TensorProto => {
    const folder = options.externalDir;
    if (folder === undefined || !isExternal(data)) return withData(tensor, data);
    const location = relative(resolve(folder), data.path);
    if (location.startsWith('..')) return withData(tensor, data);
    return cloneMessage(tensor, externalFields(location, data.offset, data.byteLength));
  };
  replaceTensors(proto, model, inline);
  return encode(proto, model.path ?? 'model');
}

/** Decides where every initializer goes, and puts that into the messages. */
function placeTensors(
  proto: ProtoWithData,
  model: Model,
  threshold: number,
  location: string,
): { tensors: Placed[]; bytes: number } {
  const tensors: Placed[] = [];
  const offsets = new Map<unknown, number>();
  let end = 0;
  replaceTensors(proto, model, (tensor, data, isInitializer) => {
    // Attribute data stays inline, unless it was external: only then may a runtime be expected to look for it elsewhere.
    const movable = data.byteLength >= threshold && data.dtype !== 'string' && (isInitializer || isExternal(data));
    if (!movable || (bitsPerElement(data.dtype) === undefined && !isExternal(data))) return withData(tensor, data);
    const key = identity(data);
    const known = offsets.get(key);
    const offset = known ?? Math.ceil(end / alignment) * alignment;
    if (known === undefined) {
      end = offset + data.byteLength;
      tensors.push({ tensor: data, name: tensor.name ?? '', offset });
      offsets.set(key, offset);
    }
    return cloneMessage(tensor, { ...dataFieldsRemoved(tensor), ...externalFields(location, offset, data.byteLength) });
  });
  return { tensors, bytes: end };
}

/** Equal for constants whose data is one: the same tensor, or the same range of a data file. It is written once. */
function identity(tensor: Tensor): unknown {
  return isExternal(tensor) ? `${tensor.path}\0${tensor.offset}\0${tensor.byteLength}` : tensor;
}

/** Runs over the initializers, and over every other tensor that is in a data file. */
function replaceTensors(
  proto: ProtoWithData,
  model: Model,
  replace: (tensor: TensorProto, data: Tensor, isInitializer: boolean) => TensorProto,
): void {
  proto.model = mapMessages(proto.model, (message) => {
    const data = proto.data.get(message);
    if (data) return replace(message, data, true);
    if (!isDecodedTensor(message)) return undefined;
    if (message.dataLocation !== EXTERNAL || !model.externalData) return message;
    return replace(message, model.externalData.open(message, false), false);
  });
}

function externalFields(
  location: string,
  offset: number,
  length: number,
): { externalData: EntryProto[]; dataLocation: number } {
  const values = { location, offset: String(offset), length: String(length) };
  return { externalData: Object.entries(values).map(([key, value]) => ({ key, value })), dataLocation: EXTERNAL };
}

function encode(proto: ProtoWithData, at: string): Uint8Array {
  const limit = 2 ** 31 - 1;
  const tooLarge = (found: string, cause?: unknown) =>
    inputError(
      at,
      `the model with inline weights has ${found}, expected less than 2 GiB`,
      'Keep weights in a data file.',
      cause,
    );
  let bytes: Uint8Array;
  try {
    bytes = encodeModel(proto.model);
  } catch (error) {
    if (error instanceof RangeError) throw tooLarge('more bytes than a buffer can hold', error);
    throw error;
  }
  if (bytes.byteLength > limit) throw tooLarge(`${bytes.byteLength} bytes`);
  return bytes;
}

/**
 * Refuses files that may not be written: those the model is read from, folders, devices, and without `force` what is there.
 * @throws usage error
 */
export async function checkTargets(targets: readonly string[], model: Model, force: boolean): Promise<void> {
  const sources = [model.path, ...(model.externalData?.files() ?? [])].filter((file) => file !== undefined);
  const sourceStats = await Promise.all(sources.map((file) => stat(file).catch(() => undefined)));
  for (const file of targets) {
    const found = await stat(file).catch(() => undefined);
    if (!found) continue;
    if (sourceStats.some((source) => source?.dev === found.dev && source.ino === found.ino)) {
      throw usageError(file, 'is a file of the input model, which is never changed', 'Choose another output.');
    }
    if (found.isDirectory()) throw usageError(file, 'is a folder, expected a file name', 'Choose another output.');
    // A file that replaced a device would take its place for every program.
    if (!found.isFile()) throw usageError(file, 'is no regular file, expected a file name', 'Choose another output.');
    if (!force) throw usageError(file, 'exists already', 'Choose another output, or replace it with --force.');
  }
}

async function writeFile(path: string, fill: (file: FileHandle) => Promise<void>): Promise<void> {
  const file = await open(path, constants.O_WRONLY | constants.O_CREAT | constants.O_EXCL, 0o666);
  try {
    await fill(file);
    await file.sync();
  } finally {
    await file.close();
  }
}

async function writeTensors(
  file: FileHandle,
  tensors: readonly Placed[],
  total: number,
  options: SaveOptions,
  target: string,
): Promise<void> {
  for (const { tensor, name, offset } of tensors) {
    options.progress?.({ stage: 'save', done: offset, total, detail: name });
    // Data that is in a file is copied in pieces, other data exists as a whole anyway.
    const whole = isExternal(tensor) ? undefined : tensor.bytes();
    const length = whole?.byteLength ?? tensor.byteLength;
    if (length !== tensor.byteLength) {
      throw new LowbitError(
        'internal',
        `internal: tensor "${name}"`,
        `has ${length} bytes, expected ${tensor.byteLength}`,
      );
    }
    for (let done = 0; done < length; done += pieceBytes) {
      throwIfAborted(options.signal, target);
      const count = Math.min(pieceBytes, length - done);
      const piece = whole ? whole.subarray(done, done + count) : tensor.read!(done, count);
      for (let written = 0; written < count;) {
        written += (await file.write(piece, written, count - written, offset + done + written)).bytesWritten;
      }
    }
  }
  options.progress?.({ stage: 'save', done: total, total, detail: basename(target) });
}

function throwIfAborted(signal: AbortSignal | undefined, target: string): void {
  if (signal?.aborted) throw new LowbitError('interrupted', target, 'writing was interrupted', 'Nothing was written.');
}

function describeFailure(error: unknown, target: string, total: number): unknown {
  const { code } = error as NodeJS.ErrnoException;
  const folder = dirname(target);
  if (error instanceof LowbitError || code === undefined) return error;
  const known: Record<string, [found: string, hint: string]> = {
    ENOSPC: [`the disk is full, ${total} bytes are needed`, 'Free some space or write elsewhere.'],
    EDQUOT: [`the disk quota is used up, ${total} bytes are needed`, 'Free some space or write elsewhere.'],
    EFBIG: [
      `a file of ${total} bytes is larger than the limit here`,
      'Write elsewhere, or raise the limit (ulimit -f).',
    ],
    ENOENT: [`the folder ${folder} does not exist`, 'Create it first.'],
    ENOTDIR: [`${folder} is not a folder`, 'Choose another output.'],
    EACCES: [`no permission to write in ${folder}`, 'Choose another output.'],
    EPERM: [`no permission to write in ${folder}`, 'Choose another output.'],
    EROFS: [`${folder} is read-only`, 'Choose another output.'],
    ENAMETOOLONG: ['the name is too long for this file system', 'Choose a shorter one.'],
  };
  const [found, hint] = known[code] ?? [`cannot be written (${code})`, ''];
  return inputError(target, found, hint, error);
}
