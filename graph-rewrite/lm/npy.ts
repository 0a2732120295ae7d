import { inputError } from '../../ops/common/errors.js';

export type NpyData =
  | Int8Array
  | Uint8Array
  | Int16Array
  | Uint16Array
  | Int32Array
  | Uint32Array
  | BigInt64Array
  | BigUint64Array
  | Float32Array
  | Float64Array;

/** An array of a `.npy` file, rows contiguous. float16 data is its bit patterns. */
export interface NpyArray {
  readonly dtype: NpyType;
  readonly shape: readonly number[];
  readonly data: NpyData;
}

const constructors = {
  bool: Uint8Array,
  int8: Int8Array,
  uint8: Uint8Array,
  int16: Int16Array,
  uint16: Uint16Array,
  int32: Int32Array,
  uint32: Uint32Array,
  int64: BigInt64Array,
  uint64: BigUint64Array,
  float16: Uint16Array,
  float32: Float32Array,
  float64: Float64Array,
} as const;

export type NpyType = keyof typeof constructors;

const descriptors: Readonly<Record<NpyType, string>> = {
  bool: '|b1',
  int8: '|i1',
  uint8: '|u1',
  int16: '<i2',
  uint16: '<u2',
  int32: '<i4',
  uint32: '<u4',
  int64: '<i8',
  uint64: '<u8',
  float16: '<f2',
  float32: '<f4',
  float64: '<f8',
};

const magic = '\x93NUMPY';
const product = (shape: readonly number[]) => shape.reduce((all, each) => all * each, 1);

/**
 * Reads a `.npy` file (format versions 1 to 3, little-endian, C order).
 * @param at file name for errors
 */
export function readNpy(bytes: Uint8Array, at: string): NpyArray {
  const text = Buffer.from(bytes.buffer, bytes.byteOffset, bytes.byteLength);
  if (bytes.length < 12 || text.toString('latin1', 0, 6) !== magic)
    throw inputError(at, 'does not start as a .npy file, expected an array saved by numpy.save');
  const wide = bytes[6]! > 1;
  const start = wide ? 12 : 10;
  const end = start + (wide ? text.readUInt32LE(8) : text.readUInt16LE(8));
  if (end > bytes.length)
    throw inputError(at, `has ${bytes.length} bytes and a header that ends at ${end}, expected all of it`);
  const header = text.toString('latin1', start, end);
  const descriptor = /'descr':\s*'([^']*)'/.exec(header)?.[1];
  const shape = /'shape':\s*\(([^)]*)\)/
    .exec(header)?.[1]
    ?.split(',')
    .map((each) => each.trim());
  const known = Object.entries(descriptors).find(([, each]) => each === descriptor);
  if (!known || !shape)
    throw inputError(
      at,
      `holds ${descriptor ?? 'no plain array'}, expected one of ${Object.values(descriptors).join(' ')}`,
    );
  const dims = shape.filter((each) => each !== '').map(Number);
  if (!dims.every((dim) => Number.isSafeInteger(dim) && dim >= 0))
    throw inputError(at, `has shape (${shape.join(', ')}), expected whole numbers`);
  if (/'fortran_order':\s*True/.test(header) && dims.length > 1)
    throw inputError(at, 'is in Fortran order, expected C order', 'Save numpy.ascontiguousarray(x).');
  const dtype = known[0] as NpyType;
  const length = product(dims);
  const size = length * constructors[dtype].BYTES_PER_ELEMENT;
  if (end + size > bytes.length)
    throw inputError(at, `has ${bytes.length - end} bytes of data, expected ${size} for shape (${dims.join(', ')})`);
  // A copy starts at offset 0 of its own buffer, whatever the alignment of the file's data.
  return {
    dtype,
    shape: dims,
    data: new constructors[dtype](new Uint8Array(bytes.subarray(end, end + size)).buffer, 0, length),
  };
}

/** The bytes of a `.npy` file (format version 1). */
export function writeNpy({ dtype, shape, data }: NpyArray): Uint8Array {
  const tuple = shape.length === 1 ? `${shape[0]},` : shape.join(', ');
  const dictionary = `{'descr': '${descriptors[dtype]}', 'fortran_order': False, 'shape': (${tuple}), }`;
  const header = `${dictionary.padEnd(Math.ceil((dictionary.length + 11) / 64) * 64 - 11)}\n`;
  const prefix = Buffer.alloc(10);
  prefix.write(magic, 0, 'latin1');
  prefix.writeUInt8(1, 6);
  prefix.writeUInt16LE(header.length, 8);
  const raw = Buffer.from(data.buffer, data.byteOffset, data.byteLength);
  return new Uint8Array(Buffer.concat([prefix, Buffer.from(header, 'latin1'), raw]));
}
