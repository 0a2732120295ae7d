// External tensor data: which files a model may name, and reading ranges of them.
//
// A model is input from strangers. The data file must be a regular file inside the folder of the model file (or of the file that the
// model is a link to, as in download caches), whatever links lead there; a path that says otherwise is refused, not resolved.
import { lstatSync, readdirSync, realpathSync, statSync } from 'node:fs';
import { dirname, isAbsolute, join, sep } from 'node:path';

import { inputError } from '../../ops/common/errors.js';
import type { Tensor } from '../ir/tensor.js';
import { bitsPerElement, byteLength, dtypeFromOnnx, type DType } from './dtype.js';
import { checkFileSize, readFileRange } from './file-range.js';
import { fromInt64 } from './int64.js';
import type { TensorProto } from './messages.js';

/** A tensor in a data file. */
export interface ExternalTensor extends Tensor {
  readonly location: string;
  /** Absolute path of the data file. */
  readonly path: string;
  /** Byte offset in the data file. */
  readonly offset: number;
  read(start: number, length: number): Uint8Array;
}

export function isExternal(tensor: Tensor): tensor is ExternalTensor {
  return 'location' in tensor;
}

/** The data files of one model. */
export class ExternalData {
  readonly #modelPath: string;
  readonly #resolved = new Map<string, string>();

  /** @param modelPath the .onnx file, which must exist */
  constructor(modelPath: string) {
    this.#modelPath = modelPath;
  }

  /** Absolute paths of the data files named so far. */
  files(): Iterable<string> {
    return this.#resolved.values();
  }

  /**
   * The tensor behind an external_data entry.
   * @param requireData also check that the file is there and long enough
   * @throws LowbitError 'input' for a path out of the model's folder, bad numbers, missing or short files
   */
  open(proto: TensorProto, requireData: boolean): ExternalTensor {
    const at = `${this.#modelPath}: tensor "${proto.name ?? ''}"`;
    const entries = new Map((proto.externalData ?? []).map((entry) => [entry.key ?? '', entry.value ?? '']));
    const location = entries.get('location') ?? '';
    const path = this.#resolve(location, at);
    const dtype = dtypeFromOnnx(proto.dataType ?? 0);
    const dims = (proto.dims ?? []).map((dim) => Number(fromInt64(dim)));
    const offset = parseSize(entries.get('offset') ?? '0', `${at} offset`);
    const written = entries.get('length');
    const length =
      written === undefined ? expectedLength(dtype, dims, path, offset) : parseSize(written, `${at} length`);
    const known =
      bitsPerElement(dtype) === undefined
        ? length
        : byteLength(
            dtype,
            dims.reduce((a, b) => a * b, 1),
          );
    if (length !== known) {
      throw inputError(
        at,
        `external data has length ${length}, expected ${known} bytes for ${dtype}[${dims.join(',')}]`,
      );
    }
    const read = (start: number, count: number) => {
      const end = start + count;
      if (start < 0 || end > length) throw inputError(at, `range ${start} … ${end} is outside its ${length} bytes`);
      return readFileRange(
        path,
        offset + start,
        count,
        `${at} (location "${location}", offset ${offset}, length ${length})`,
      );
    };
    if (requireData)
      checkFileSize(path, offset + length, `${at} (location "${location}", offset ${offset}, length ${length})`);
    return {
      dtype,
      dims,
      byteLength: length,
      location,
      path,
      offset,
      source: proto,
      read,
      bytes: () => read(0, length),
    };
  }

  #resolve(location: string, at: string): string {
    const known = this.#resolved.get(location);
    if (known !== undefined) return known;
    const path = allowedPath(this.#modelPath, location, at);
    this.#resolved.set(location, path);
    return path;
  }
}

function allowedPath(modelPath: string, location: string, at: string): string {
  const refuse = (reason: string) =>
    inputError(at, `external data location "${location}" ${reason}`, 'Only files in the folder of the model are read.');
  if (location === '' || location.includes('\0')) throw refuse('names no file');
  if (isAbsolute(location) || /^[A-Za-z]:|^[\\/]/.test(location)) throw refuse('is an absolute path');
  if (location.split(/[\\/]/).includes('..')) throw refuse('leads out of the folder of the model');
  const path = join(dirname(modelPath), location);
  const link = lstatSync(path, { throwIfNoEntry: false });
  if (!link) return path; // missing: reported with offset and length when it is read
  if (link.isDirectory()) throw refuse('is not a regular file');
  const real = realpathSync(path);
  const folders = [realpathSync(dirname(modelPath)), dirname(realpathSync(modelPath))];
  const home = folders.find((folder) => real.startsWith(folder === sep ? sep : folder + sep));
  if (home === undefined) throw refuse(`is a link out of the folder of the model, to ${real}`);
  const stat = statSync(real);
  if (!stat.isFile()) throw refuse('is not a regular file');
  if (stat.nlink > 1 && linksInside([...new Set([...folders, dirname(real)])], stat) < stat.nlink) {
    throw refuse('is a hard link to a file outside the folder of the model');
  }
  return path;
}

/** Names that the file has in the given folders. */
function linksInside(folders: string[], file: { dev: number; ino: number }): number {
  return folders
    .flatMap((folder) => readdirSync(folder).map((name) => lstatSync(join(folder, name), { throwIfNoEntry: false })))
    .filter((stat) => stat?.dev === file.dev && stat.ino === file.ino).length;
}

function parseSize(text: string, at: string): number {
  const value = /^\d+$/.test(text) ? Number(text) : NaN;
  if (!Number.isSafeInteger(value)) throw inputError(at, `is "${text}", expected a number of bytes`);
  return value;
}

/** Without a length entry the dims decide; for types of unknown size, the rest of the file. */
function expectedLength(dtype: DType, dims: number[], path: string, offset: number): number {
  if (bitsPerElement(dtype) !== undefined)
    return byteLength(
      dtype,
      dims.reduce((a, b) => a * b, 1),
    );
  return Math.max(0, (statSync(path, { throwIfNoEntry: false })?.size ?? 0) - offset);
}
