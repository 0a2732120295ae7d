#!/usr/bin/env python3
"""Times the CUDA kernels beside their peers on one GPU: cuBLAS fp16, fp8 and int8 through PyTorch, group scales in Triton; one process, interleaved.

usage: run.py LIBRARY OUT.json [--sweep] [--quick]

Every method is captured into a CUDA graph of many calls that rotate through copies of the weights (200 MB and more), so
that L2 does not hold them and launches cost what they cost inside a captured model. A method's time is the median over
interleaved repeats. Weights' bytes are codes and scales.
"""
import ctypes
import json
import sys

import torch

from rows import time_layer, time_norms, time_quantizes
from timing import copy_bandwidth, measure, ptr, stream
from triton_group import TritonGroups

lib = ctypes.CDLL(sys.argv[1])
lib.bench_choice.restype = ctypes.c_char_p
sweep, quick = "--sweep" in sys.argv, "--quick" in sys.argv
dev = "cuda"
torch.manual_seed(0)

# Numbers of ops/common/cuda/types.h's Format.
FORMATS = {"s4": 0, "s8": 1, "float": 2, "s4_e4m3": 3, "e2m1": 4, "e4m3": 6}


def codes(form, *shape):
    """Random bytes; finite ones of a minifloat, small ones of 4 bits."""
    if form == "s4_e4m3":
        q = torch.randint(-8, 8, shape, dtype=torch.int16, device=dev)
        return torch.where(q < 0, 128 - q, q).to(torch.uint8).view(torch.int8)
    if form == "e4m3":
        return torch.randn(shape, device=dev).to(torch.float8_e4m3fn).view(torch.int8)
    high = 8 if form == "s4" else 128
    return torch.randint(-high, high, shape, dtype=torch.int8, device=dev)


class Weights:
    """Codes of one linear layer, `copies` of them one after the other. `powers`: a row's scales are powers of two apart."""

    def __init__(self, n, k, form, group, outliers, copies, powers=False):
        body = k - outliers
        self.n, self.k, self.form, self.group, self.outliers, self.powers = n, k, form, group, outliers, powers
        self.groups = body // group if group else 1
        rand = lambda *s: torch.randint(-128, 128, s, dtype=torch.int8, device=dev)
        nibbles = form in ("s4", "e2m1")
        self.b = [rand(n, body // 2) if nibbles else codes(form, n, body) for _ in range(copies)]
        self.scale = [(torch.rand(n, self.groups, device=dev) * 0.01).half() for _ in range(copies)]
        if powers:
            self.scale = [torch.exp2(-torch.randint(0, 6, (n, self.groups), device=dev) - 8.0).half() for _ in range(copies)]
        self.outlier = [rand(n, outliers) for _ in range(copies)] if outliers else [None] * copies
        self.outlier_scale = [(torch.rand(n, device=dev) * 0.01).half() for _ in range(copies)]
        self.bytes = self.b[0].numel() + self.scale[0].numel() * 2 + n * outliers + (2 * n if outliers else 0)


def ours(w, m, a_form, kernel=None, split=0, a_group=None):
    """A function that runs call i, or None when the kernel does not take the shape."""
    a_group = 0 if a_form == "float" else w.group if a_group is None else a_group
    scales = (w.groups if a_group else 1) + (1 if w.outliers else 0)
    if a_form != "float":
        a = codes(a_form, m, w.k)
        a_scale = torch.rand(m, scales, device=dev) * 0.1
    else:
        a, a_scale = torch.randn(m, w.k, device=dev, dtype=torch.half), None
    y = torch.empty(m, w.n, device=dev, dtype=torch.half)
    scratch = torch.empty_like(a) if a_form == "s4" else None
    name = kernel.encode() if kernel else None

    def call(i):
        i %= len(w.b)
        e = lib.bench_gemm(name, ctypes.c_int64(m), w.n, w.k, w.outliers, w.group, int(w.powers), a_group, FORMATS[w.form], FORMATS[a_form], ptr(a), ptr(a_scale),
                           ptr(w.b[i]), ptr(w.scale[i]), ptr(w.outlier[i]), ptr(w.outlier_scale[i]), ptr(y), split,
                           ptr(scratch), stream())
        if e != 0:
            raise RuntimeError(f"bench_gemm gave {e}")

    call(0)
    torch.cuda.synchronize()
    return call


def reads(copies, size):
    """Calls of a kernel that only reads `size` bytes, `copies` of them one after the other."""
    size -= size % 16
    flat = torch.randint(-128, 128, (copies, size), device=dev, dtype=torch.int8)

    def call(i):
        e = lib.bench_read(ptr(flat[i % copies]), ctypes.c_int64(size), ptr(None), stream())
        if e != 0:
            raise RuntimeError(f"bench_read gave {e}")

    return call


def peers(m, n, k, copies):
    x = torch.randn(m, k, device=dev, dtype=torch.half)
    ws = [torch.randn(n, k, device=dev, dtype=torch.half) * 0.02 for _ in range(copies)]
    y = torch.empty(m, n, device=dev, dtype=torch.half)
    w8 = [w.to(torch.float8_e4m3fn) for w in ws]
    x8, one = x.to(torch.float8_e4m3fn), torch.ones((), device=dev)
    wi, xi = [(w * 1000).to(torch.int8) for w in ws], (x * 20).to(torch.int8)
    found = {"cublas_fp16": lambda: lambda i: torch.matmul(x, ws[i % copies].t(), out=y),
             "cublas_fp8": lambda: lambda i: torch._scaled_mm(x8, w8[i % copies].t(), scale_a=one, scale_b=one, out_dtype=torch.half),
             "cublas_fp8_fast": lambda: lambda i: torch._scaled_mm(x8, w8[i % copies].t(), scale_a=one, scale_b=one, out_dtype=torch.half, use_fast_accum=True)}
    if m >= 1024:
        found["triton_fp8_g128"] = lambda: TritonGroups(m, n, k, copies)
    if m > 16:
        found["cublas_int8"] = lambda: lambda i: torch._int_mm(xi, wi[i % copies].t())
    return found


shapes = [(4096, 4096), (4096, 11008), (11008, 4096), (8192, 28672)]
tokens = [1, 4, 16, 64, 128, 256, 512, 1024, 2048, 4096, 8192]
if quick:
    shapes, tokens = [(4096, 4096), (4096, 11008)], [1, 16, 64, 256, 1024, 2048, 4096]
copy = copy_bandwidth()
result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_GBps": copy, "gemm": [], "sweep": []}
print(f"{result['device']}, copy {copy:.0f} GB/s (read and written)")
for k, n in shapes:
    copies = max(2, int(2.2e8 / (n * k / 2)))
    few = min(copies, max(2, int(3e8 / (n * k))))
    atom = Weights(n, k, "s4", 128, 128, copies)
    g128 = Weights(n, k, "s4", 128, 0, copies)
    channel = Weights(n, k, "s8", 0, 0, few)
    fp4, fp8 = Weights(n, k, "e2m1", 128, 0, copies), Weights(n, k, "e4m3", 128, 0, few)
    pow2, atom_pow2 = Weights(n, k, "e2m1", 128, 0, copies, powers=True), Weights(n, k, "s4", 128, 128, copies, powers=True)
    for m in tokens:
        makers = peers(m, n, k, few)
        makers["atom_w4a4"] = lambda: ours(atom, m, "s4_e4m3")
        makers["atom_s4"] = lambda: ours(atom, m, "s4")
        makers["atom_pow2"] = lambda: ours(atom_pow2, m, "s4_e4m3")
        makers["atom_s4_pow2"] = lambda: ours(atom_pow2, m, "s4")
        makers["w4a4_g128"] = lambda: ours(g128, m, "s4_e4m3")
        makers["w8a8"] = lambda: ours(channel, m, "s8")
        makers["w4a16"] = lambda: ours(g128, m, "float")
        makers["e2m1_e4m3"] = lambda: ours(fp4, m, "e4m3", a_group=0)
        makers["e2m1_pow2"] = lambda: ours(pow2, m, "e4m3", a_group=0)
        makers["e4m3_e4m3"] = lambda: ours(fp8, m, "e4m3", a_group=0)
        if m <= 16:
            makers["read_4bit"] = lambda: reads(copies, atom.bytes)
            makers["read_8bit"] = lambda: reads(few, channel.bytes)
        flop = 2e-6 * m * n * k
        calls = max(4, min(2 * copies, int(3e3 / max(flop / 6e2, 5))))
        t = measure(makers, calls, 7)
        row = {"M": m, "K": k, "N": n, "us": t, "atom_bytes": atom.bytes, "read_bytes": {"read_4bit": atom.bytes, "read_8bit": channel.bytes},
               "kernel": lib.bench_choice(ctypes.c_int64(m), n, k, 128, 128, 128, FORMATS["s4"], FORMATS["s4_e4m3"]).decode()}
        result["gemm"].append(row)
        text = " ".join(f"{name} {us:.1f}us({flop / us:.0f}T)" for name, us in t.items())
        gb = atom.bytes / t["atom_w4a4"] / 1e3
        print(f"{m} {k} {n} | {text} | atom {gb:.0f} GB/s = {100 * gb / copy:.0f}% copy, {t['cublas_fp16'] / t['atom_w4a4']:.2f}x fp16, powers of two {t['cublas_fp16'] / t['atom_pow2']:.2f}x", flush=True)
    if sweep:
        for m in (1, 16, 64):
            makers = {f"{kind} {sp}": (lambda w=w, form=form, sp=sp: ours(w, m, form, split=sp))
                      for kind, w, form in (("atom", atom, "s4"), ("w8a8", channel, "s8"), ("w4a16", g128, "float")) for sp in (1, 2, 3, 4, 6, 8)}
            t = measure(makers, 2 * few, 3)
            result["sweep"].append({"M": m, "K": k, "N": n, "us": t})
            print(f"sweep {m} {k} {n} " + " ".join(f"{c}:{us:.1f}" for c, us in t.items()), flush=True)
    del atom, g128, channel, fp4, fp8, pow2, atom_pow2
    torch.cuda.empty_cache()

result["norm"], result["quantize"] = time_norms(lib, copy), time_quantizes(lib, copy)
result["layer"] = time_layer(lib, lambda n, k, copies: (w := Weights(n, k, "s4", 128, 128, copies)) and ours(w, 2048, "s4_e4m3"))
json.dump(result, open(sys.argv[2], "w"), indent=1)
