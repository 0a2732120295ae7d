// The typed data fields of TensorProto (float_data, int32_data, …) as the bytes that raw_data would hold.
import { inputError } from '../../ops/common/errors.js';
import { bitsPerElement, type DType } from './dtype.js';
import type { TensorProto } from './messages.js';

/** Field name, field number, and the wire type of one element outside a packed run. */
const fields = [
  ['floatData', 4, 5],
  ['int32Data', 5, 0],
  ['int64Data', 7, 0],
  ['doubleData', 10, 1],
  ['uint64Data', 11, 0],
] as const;

/** The payload of the typed data fields as little-endian element bytes; undefined if none of them is set. */
export function typedDataBytes(tensor: TensorProto, dtype: DType): Uint8Array | undefined {
  for (const [key, number, wireType] of fields) {
    const chunks = [...(tensor[key] ?? []), ...unpackedElements(tensor, (number << 3) | wireType)];
    if (chunks.length === 0) continue;
    const payload = chunks.length === 1 ? chunks[0]! : Buffer.concat(chunks);
    return wireType === 0 ? varintsToBytes(payload, dtype) : payload;
  }
  return undefined;
}

/** What `cloneMessage` needs to take the data out of a message, wherever that was. */
export function dataFieldsRemoved(tensor: TensorProto): { [K in keyof TensorProto]?: TensorProto[K] | undefined } {
  const unknowns = tensor.$unknowns?.filter(
    (field) => !fields.some(([, number, wireType]) => isField(field, (number << 3) | wireType)),
  );
  return {
    rawData: undefined,
    externalData: undefined,
    dataLocation: undefined,
    ...Object.fromEntries(fields.map(([key]) => [key, undefined])),
    ...(unknowns ? { $unknowns: unknowns } : {}),
  };
}

/** Elements written one by one (allowed, if unusual): our schema declares only the packed form, so they are unknown fields. */
function unpackedElements(tensor: TensorProto, tag: number): Uint8Array[] {
  return (tensor.$unknowns ?? []).filter((field) => isField(field, tag)).map((field) => field.subarray(1));
}

/** All tags asked for are below 128, hence one byte. */
function isField(field: Uint8Array, tag: number): boolean {
  return field[0] === tag;
}

/** int32_data holds every type of up to 32 bits, one element (or one byte of 4-bit elements) per varint. */
function varintsToBytes(payload: Uint8Array, dtype: DType): Uint8Array {
  const bits = bitsPerElement(dtype);
  if (bits === undefined || bits > 64) throw inputError(`type ${dtype}`, 'cannot be stored as integers');
  const width = Math.max(1, bits / 8);
  let count = 0;
  for (const byte of payload) if (byte < 128) count++;
  const bytes = new Uint8Array(count * width);
  const view = new DataView(bytes.buffer);
  let position = 0;
  for (let i = 0; i < count; i++) {
    let low = 0;
    let high = 0;
    for (let shift = 0, more = true; more; shift += 7) {
      const byte = payload[position++]!;
      more = byte > 127;
      const part = byte & 127;
      if (shift < 28) low |= part << shift;
      else if (shift === 28) {
        low |= part << 28;
        high |= part >> 4;
      } else if (shift < 64) high |= part << (shift - 32);
    }
    if (width === 8) {
      view.setInt32(i * 8, low, true);
      view.setInt32(i * 8 + 4, high, true);
    } else if (width === 4) view.setInt32(i * 4, low, true);
    else if (width === 2) view.setInt16(i * 2, low, true);
    else view.setInt8(i, low);
  }
  return bytes;
}
