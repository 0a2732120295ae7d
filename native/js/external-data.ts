/**
 * The externalData option: weight files handed over in memory instead of lying beside the model.
 */
import { readFile } from 'node:fs/promises';
import { fileURLToPath } from 'node:url';
import { inputError } from '../../ops/common/errors.js';
import type { NativeSessionOptions } from './addon.js';
import { checkNames, checkObject, checkString, optionError } from './check-option.js';

type ExternalFile = NativeSessionOptions['externalData'][number];

/**
 * Reads every entry: `{path, data}` gives the bytes of the file that the model calls `path`; a plain string names a file,
 * which ONNX Runtime finds itself when the model comes from a path.
 * @throws TypeError for a malformed entry, LowbitError 'input' for an unreadable file
 */
export async function readExternalData(value: unknown, path: string, modelIsPath: boolean): Promise<ExternalFile[]> {
  if (!Array.isArray(value)) throw optionError(path, value, 'an array');
  const files: ExternalFile[] = [];
  for (const [i, entry] of (value as unknown[]).entries()) {
    const where = `${path}[${i}]`;
    if (typeof entry === 'string') {
      if (!modelIsPath) files.push({ path: entry, data: await readBytes(entry, where) });
      continue;
    }
    const description = checkObject(entry, where);
    checkNames(description, where, ['path', 'data']);
    files.push({
      path: checkString(description.path, `${where}.path`),
      data: await bytesOf(description.data, `${where}.data`),
    });
  }
  return files;
}

async function bytesOf(data: unknown, where: string): Promise<Uint8Array> {
  if (typeof data === 'string') return readBytes(data, where);
  if (data instanceof Blob) return new Uint8Array(await data.arrayBuffer());
  if (ArrayBuffer.isView(data)) return new Uint8Array(data.buffer, data.byteOffset, data.byteLength);
  if (data instanceof ArrayBuffer || data instanceof SharedArrayBuffer) return new Uint8Array(data);
  throw optionError(where, data, 'a Uint8Array, an ArrayBuffer, a Blob or a path');
}

async function readBytes(file: string, where: string): Promise<Uint8Array> {
  try {
    return await readFile(file.startsWith('file:') ? fileURLToPath(file) : file);
  } catch (cause) {
    throw inputError(where, `${file} cannot be read (${String(cause)})`, '', cause);
  }
}
