// TensorProto → Tensor, for data inside the model file.
import { inputError } from '../../ops/common/errors.js';
import type { Tensor } from '../ir/tensor.js';
import { bitsPerElement, byteLength, dtypeFromOnnx } from './dtype.js';
import { fromInt64 } from './int64.js';
import type { TensorProto } from './messages.js';
import { typedDataBytes } from './typed-data.js';

export const EXTERNAL = 1;

/**
 * A tensor over the data in its message. raw_data and float_data are views; integers in typed fields are decoded when asked for.
 * Wrong sizes are reported when the bytes are asked for.
 */
export function tensorFromProto(proto: TensorProto): Tensor {
  const dtype = dtypeFromOnnx(proto.dataType ?? 0);
  const dims = (proto.dims ?? []).map((dim) => Number(fromInt64(dim)));
  const count = dims.reduce((total, dim) => total * dim, 1);
  const size = bitsPerElement(dtype) === undefined ? (proto.rawData?.byteLength ?? 0) : byteLength(dtype, count);
  const bytes = () => {
    const at = `tensor "${proto.name ?? ''}"`;
    if (dtype === 'string') throw inputError(at, 'holds strings, which have no bytes of fixed size');
    const data = proto.rawData ?? typedDataBytes(proto, dtype) ?? new Uint8Array(0);
    if (data.byteLength !== size) {
      throw inputError(at, `has ${data.byteLength} bytes of data, expected ${size} for ${dtype}[${dims.join(',')}]`);
    }
    return data;
  };
  return { dtype, dims, byteLength: size, bytes, source: proto };
}
