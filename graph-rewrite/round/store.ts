/** Rounded products on disk: what an interrupted run did is not done again, and no more than one product is in memory. */
import { closeSync, mkdirSync, openSync, readFileSync, readSync, renameSync, rmSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { inputError } from '../../ops/common/errors.js';
import { byteLength } from '../onnx/dtype.js';
import type { Tensor } from '../ir/tensor.js';
import { tensorsOf, type Parts, type PackedLinear, type PackSpec, type Part, type Sizes } from '../pack/linear.js';

/** What is known of a product after rounding; in the report. */
export interface RoundedLayer {
  readonly name: string;
  readonly K: number;
  readonly N: number;
  /** If it was rounded by GPTQ. */
  readonly gptq?: GptqRecord;
  /** If it has a low-rank term. */
  readonly lorc?: LorcRecord;
  readonly seconds: number;
}

export interface GptqRecord {
  /**
   * tr(ΔW·H·ΔWᵀ) relative to tr(W·H·Wᵀ), over at most 1024 rows: the share of the output's energy that is lost on the calibration
   * data; without a low-rank term.
   */
  readonly loss: number;
  /** The same, rounded to nearest. */
  readonly nearestLoss: number;
  /** What was added to the Hessian's diagonal, as a share of its mean. */
  readonly damping: number;
}

export interface LorcRecord {
  readonly rank: number;
  /** ‖W − Ŵ‖² relative to ‖W‖², without the term. */
  readonly error: number;
  /** With it. */
  readonly left: number;
}

/** As `tensorsOf` asks for them. */
const order: readonly Part[] = [
  ...(['b', 'bScale', 'bOutlier', 'bOutlierScale'] as const),
  ...(['lorcDown', 'lorcDownScale', 'lorcUp', 'lorcUpScale'] as const),
];

/** A folder with two files a product: `N.bin`, its parts one after the other, and `N.json`, which appears when that is whole. */
export class RoundingStore {
  constructor(readonly folder: string) {
    try {
      mkdirSync(folder, { recursive: true });
    } catch (cause) {
      throw inputError(
        folder,
        `cannot be made (${(cause as Error).message}), expected a place for rounded layers`,
        '',
        cause,
      );
    }
  }

  /** The record of product number `index`, if it is there and has this name. */
  find(index: number, name: string): RoundedLayer | undefined {
    try {
      const record = JSON.parse(readFileSync(this.#path(index, 'json'), 'utf8')) as RoundedLayer;
      return record.name === name ? record : undefined;
    } catch {
      return undefined; // not there, or cut off: it is rounded again
    }
  }

  write(index: number, parts: Parts, record: RoundedLayer): void {
    this.#place(this.#path(index, 'bin'), Buffer.concat(order.flatMap((part) => parts[part] ?? [])));
    this.#place(this.#path(index, 'json'), JSON.stringify(record));
  }

  /** The tensors of a product that is there; their bytes are read when they are asked for. */
  read(index: number, sizes: Sizes, spec: PackSpec): PackedLinear {
    const path = this.#path(index, 'bin');
    let start = 0;
    return tensorsOf(sizes, spec, (_part, dtype, dims) => {
      const length = byteLength(
        dtype,
        dims.reduce((all, each) => all * each, 1),
      );
      const tensor = fileTensor(path, start, { dtype, dims, byteLength: length });
      start += length;
      return tensor;
    });
  }

  #path(index: number, extension: string): string {
    return join(this.folder, `${String(index).padStart(4, '0')}.${extension}`);
  }

  #place(path: string, data: Uint8Array | string): void {
    try {
      writeFileSync(`${path}.tmp`, data);
      renameSync(`${path}.tmp`, path);
    } catch (error) {
      rmSync(`${path}.tmp`, { force: true }); // a full disk has no room for half a file
      throw Object.assign(error as Error, { path }); // errors of writing do not name the file
    }
  }
}

function fileTensor(path: string, offset: number, shape: Pick<Tensor, 'dtype' | 'dims' | 'byteLength'>): Tensor {
  const read = (start: number, length: number): Uint8Array => readRange(path, offset + start, length);
  return { ...shape, bytes: () => read(0, shape.byteLength), read };
}

function readRange(path: string, start: number, length: number): Uint8Array {
  const bytes = new Uint8Array(length);
  let file: number;
  try {
    file = openSync(path, 'r');
  } catch (cause) {
    throw inputError(
      path,
      `rounded weights cannot be read (${(cause as Error).message})`,
      'Run the rewrite again.',
      cause,
    );
  }
  try {
    let done = 0;
    while (done < length) {
      const count = readSync(file, bytes, done, length - done, start + done);
      if (count === 0)
        throw inputError(path, `ends at byte ${start + done}, expected ${start + length}`, 'Run the rewrite again.');
      done += count;
    }
  } finally {
    closeSync(file);
  }
  return bytes;
}
