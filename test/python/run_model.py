"""Runs a rewritten model from Python: libort_lowbit.so loaded by onnxruntime's own Python binding.

    run_model.py LIBORT_LOWBIT MODEL [INPUT=D0,D1,... ...]

Feeds and prints exactly what test/c/run_model.c does: inputs filled by one rule, one line per output with its name, dims and
the FNV-1a hash of its bytes. Dimensions that the model leaves open are 1 unless given.
"""

import sys

import numpy as np
import onnxruntime as ort

TYPES = {
    "tensor(float)": np.float32,
    "tensor(float16)": np.float16,
    "tensor(double)": np.float64,
    "tensor(int8)": np.int8,
    "tensor(uint8)": np.uint8,
    "tensor(int32)": np.int32,
    "tensor(int64)": np.int64,
    "tensor(bool)": np.bool_,
}


def fill(dtype, dims):
    """Element i: float32 (i * 37 mod 64 - 32) / 16, int64 i mod 5, every other type zero."""
    i = np.arange(int(np.prod(dims, dtype=np.int64)), dtype=np.int64)
    if dtype is np.float32:
        return (((i * 37 % 64) - 32) / 16).astype(np.float32).reshape(dims)
    if dtype is np.int64:
        return (i % 5).reshape(dims)
    return np.zeros(dims, dtype)


def fnv1a(data):
    """64-bit FNV-1a hash of bytes."""
    value = 0xCBF29CE484222325
    for byte in data:
        value = ((value ^ byte) * 0x100000001B3) & 0xFFFFFFFFFFFFFFFF
    return value


def main(arguments):
    if len(arguments) < 2:
        sys.exit("usage: run_model.py LIBORT_LOWBIT MODEL [INPUT=D0,D1,... ...]")
    library, model, *given = arguments
    dims_of = {name: [int(d) for d in dims.split(",")] for name, dims in (text.split("=") for text in given)}
    options = ort.SessionOptions()
    options.register_custom_ops_library(library)
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    feeds = {}
    for value in session.get_inputs():
        dims = dims_of.get(value.name, [d if isinstance(d, int) else 1 for d in value.shape])
        feeds[value.name] = fill(TYPES[value.type], dims)
    names = [value.name for value in session.get_outputs()]
    for name, result in zip(names, session.run(names, feeds)):
        dims = ",".join(str(d) for d in result.shape)
        print(f"{name} {dims} {fnv1a(np.ascontiguousarray(result).tobytes()):016x}")


main(sys.argv[1:])
