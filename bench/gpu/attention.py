#!/usr/bin/env python3
"""Times QuantKvAttention's CUDA kernels on one GPU beside PyTorch's float16 flash attention over a float16 cache.

usage: attention.py LIBRARY OUT.json [--quick]

Caches are in place and rotate through copies (300 MB and more) so that L2 does not hold them. Bytes are codes and
parameters of keys and values; `read` is a kernel that reads them and does nothing else, in the same chain of launches.
"""
import ctypes
import json
import sys

import torch
import torch.nn.functional as F

from timing import P, copy_bandwidth, measure, ptr, stream

lib = ctypes.CDLL(sys.argv[1])
lib.bench_kv_choice.restype = ctypes.c_char_p
quick = "--quick" in sys.argv
dev = "cuda"
torch.manual_seed(0)


class Case:
    def __init__(self, batch, tokens, rows, heads, kv_heads, dim, bits):
        self.shape = (batch, tokens, rows, heads, kv_heads, dim, bits)
        half = dict(device=dev, dtype=torch.half)
        self.q = torch.randn(batch, tokens, heads * dim, **half)
        self.k, self.v = (torch.randn(batch, tokens, kv_heads * dim, **half) for _ in range(2))
        self.y = torch.empty_like(self.q)
        angle = torch.arange(rows).double()[:, None] * 10000.0 ** (-torch.arange(dim // 2).double() / (dim // 2))
        self.cos, self.sin = angle.cos().half().to(dev), angle.sin().half().to(dev)
        self.lengths = torch.full((batch,), rows, dtype=torch.int32, device=dev)
        codes = batch * kv_heads * rows * dim * bits // 8
        self.bytes = 2 * codes + 2 * batch * kv_heads * rows * 4
        self.copies = max(2, int(3e8 / self.bytes))
        self.codes = [[torch.randint(0, 256, (codes,), dtype=torch.uint8, device=dev) for _ in range(2)] for _ in range(self.copies)]
        param = torch.tensor([0.2, -1.5], device=dev).half().repeat(batch * kv_heads * rows)
        self.params = [[param.clone() for _ in range(2)] for _ in range(self.copies)]

    def ours(self, phases, post, kernel=None):
        batch, tokens, rows, heads, kv_heads, dim, bits = self.shape

        def call(i):
            (kc, vc), (kp, vp) = self.codes[i % self.copies], self.params[i % self.copies]
            e = lib.bench_kv(kernel.encode() if kernel else None, phases, batch, tokens, rows, heads, kv_heads, dim, bits, post,
                             ptr(self.q), ptr(self.k), ptr(self.v), ptr(kc), ptr(kp), ptr(vc), ptr(vp), ptr(self.lengths),
                             ptr(self.cos), ptr(self.sin), ptr(self.y), stream())
            if e != 0:
                raise RuntimeError(f"bench_kv gave {e}")

        return lambda: call

    def read(self):
        """The same bytes by a kernel that only reads them."""
        codes = self.codes[0][0].numel()
        never = torch.empty(1, dtype=torch.int32, device=dev)

        def call(i):
            (kc, vc), (kp, vp) = self.codes[i % self.copies], self.params[i % self.copies]
            e = lib.bench_kv_read(ptr(kc), ptr(kp), ptr(vc), ptr(vp), ctypes.c_size_t(codes), ctypes.c_size_t(2 * kp.numel()), ptr(never), stream())
            if e != 0:
                raise RuntimeError(f"bench_kv_read gave {e}")

        return lambda: call

    def torch(self):
        batch, tokens, rows, heads, kv_heads, dim, _ = self.shape
        copies = max(2, int(3e8 / (4 * batch * kv_heads * rows * dim)))
        cache = [torch.randn(2, batch, kv_heads, rows, dim, device=dev, dtype=torch.half) for _ in range(copies)]
        q = self.q.view(batch, tokens, heads, dim).transpose(1, 2)

        def call(i):
            k, v = cache[i % copies]
            with torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.FLASH_ATTENTION):
                F.scaled_dot_product_attention(q, k, v, is_causal=tokens > 1, enable_gqa=heads != kv_heads)

        return lambda: call


copy = copy_bandwidth()
result = {"device": torch.cuda.get_device_name(), "torch": torch.__version__, "copy_GBps": copy, "decode": [], "prefill": []}
print(f"{result['device']}, copy {copy:.0f} GB/s (read and written)")

decode = [(1, 4096), (16, 2048), (64, 1024), (128, 1024)]
for kv_heads in (32, 8):
    for bits in (4, 8):
        if quick and bits == 8:
            continue
        for batch, rows in decode:
            case = Case(batch, 1, rows, 32, kv_heads, 128, bits)
            makers = {"pre": case.ours(2, 0), "post": case.ours(2, 1), "pre_append": case.ours(3, 0), "append": case.ours(1, 0), "read": case.read()}
            if bits == 4:
                makers["torch_f16"] = case.torch()
            t = measure(makers, max(case.copies, 8), 9)
            row = dict(batch=batch, context=rows, heads=32, kv_heads=kv_heads, bits=bits, bytes=case.bytes, us=t)
            result["decode"].append(row)
            text = " ".join(f"{n} {us:.1f}us" + (f"={100 * case.bytes / us / 1e3 / copy:.0f}%" if n in ("pre", "post", "read") else "") for n, us in t.items())
            ratio = f" {t['torch_f16'] / t['pre_append']:.2f}x torch" if "torch_f16" in t else ""
            print(f"decode b{batch} t{rows} 32/{kv_heads} u{bits} | {text}{ratio}", flush=True)
            del case
            torch.cuda.empty_cache()

for kv_heads in (32, 8):
    for batch, tokens in ((1, 2048), (4, 2048), (4, 1024), (16, 512)):
        case = Case(batch, tokens, tokens, 32, kv_heads, 128, 4)
        makers = {"pre": case.ours(2, 0), "post": case.ours(2, 1), "append": case.ours(1, 0), "torch_f16": case.torch()}
        t = measure(makers, 4, 5)
        flop = 2 * tokens * tokens * 128 * 32 * batch  # causal: half of 4 S T D
        result["prefill"].append(dict(batch=batch, tokens=tokens, heads=32, kv_heads=kv_heads, us=t))
        print(f"prefill b{batch} s{tokens} 32/{kv_heads} | " + " ".join(f"{n} {us:.0f}us({flop / us / 1e6:.0f}T)" for n, us in t.items()), flush=True)
        del case
        torch.cuda.empty_cache()
json.dump(result, open(sys.argv[2], "w"), indent=1)
