"""Times the row operators beside what moves as many bytes: a copy kernel in the same graphs and cudaMemcpyAsync."""
import ctypes

import torch

from timing import measure, ptr, stream

dev = "cuda"
S4, S8, S4_E4M3 = 0, 1, 3  # numbers of ops/common/cuda/types.h's Format


class Rows:
    """m rows of k float16 channels and where their codes go, `sets` times, so that L2 holds none of them (`cached`: so that it does)."""

    def __init__(self, lib, m, k, gated=False, cached=False):
        self.lib, self.m, self.k, self.gated = lib, ctypes.c_int64(m), k, int(gated)
        self.read, self.written = m * k * (4 if gated else 2), m * k
        self.sets = 1 if cached else max(2, min(60, int(3e8 / (self.read + self.written))))
        self.x = [torch.randn(m, self.read // m // 2, device=dev, dtype=torch.half) for _ in range(self.sets)]
        self.q = [torch.empty(m, k, device=dev, dtype=torch.int8) for _ in range(self.sets)]
        self.scale = torch.empty(m, k // 16, device=dev)
        self.weight = torch.ones(k, device=dev, dtype=torch.half)
        self.order = torch.randperm(k, device=dev).int()

    def call(self, function, *args):
        """A maker of function(args..., stream) of the set whose turn it is."""

        def run(i):
            i %= self.sets
            e = function(*(a(i) if callable(a) else a for a in args), stream())
            if e != 0:
                raise RuntimeError(f"{function.__name__} gave {e}")

        return lambda: run

    def x_of(self, i):
        return ptr(self.x[i])

    def q_of(self, i):
        return ptr(self.q[i])

    def norm(self, group, outliers, form, clip, reorder):
        return self.call(self.lib.bench_norm_quantize, self.m, self.k, group, outliers, form, ctypes.c_float(clip), self.x_of,
                         ptr(self.weight), ptr(self.order if reorder else None), self.q_of, ptr(self.scale))

    def quantize(self, group, outliers, form, clip, reorder):
        return self.call(self.lib.bench_quantize, self.m, self.k, group, outliers, form, ctypes.c_float(clip), self.gated, self.x_of,
                         ptr(self.order if reorder else None), self.q_of, ptr(self.scale))

    def copies(self):
        """What moves the rows' bytes without their scales, which are 1 % of them: reads all, writes the codes'; a device copy."""
        half = (self.read + self.written) // 2
        flat = torch.empty(2, self.sets, half, device=dev, dtype=torch.int8)
        kernel = self.call(self.lib.bench_copy, self.x_of, self.read // self.written, self.q_of, ctypes.c_int64(self.written))
        return {"copy_kernel": kernel, "memcpy": lambda: lambda i: flat[1, i % self.sets].copy_(flat[0, i % self.sets])}

    def time(self, makers, repeats=5):
        return measure({**makers, **self.copies()}, max(self.sets, 20), repeats)


def report(name, m, k, t, moved, copy, **more):
    text = " ".join(f"{method} {us:.2f}us={100 * moved / us / 1e3 / copy:.0f}%" for method, us in t.items())
    print(f"{name} M {m} K {k} {text}", flush=True)
    return {"M": m, "K": k, "us": t, "bytes": moved, **more}


def time_norms(lib, copy):
    """NormQuantize of 4096 channels; shares of the copy bandwidth count bytes read and written."""
    rows = []
    for m, cached in ((1, False), (64, False), (1024, False), (2048, False), (8192, False), (1024, True), (2048, True)):
        r = Rows(lib, m, 4096, cached=cached)
        t = r.time({"reorder_g128_o128": r.norm(128, 128, S4, 1.0, True), "atom_s4_e4m3": r.norm(128, 128, S4_E4M3, 0.9, True),
                    "g128": r.norm(128, 0, S4, 1.0, False), "per_token": r.norm(0, 0, S8, 1.0, False)})
        rows.append(report("norm_quantize in L2" if cached else "norm_quantize", m, 4096, t, m * 4096 * 3 + m * 32 * 4, copy, cached=cached))
    return rows


def time_quantizes(lib, copy):
    """Quantize of 4096 channels and GatedActQuantize (silu) of 11008, Atom's, in groups and per token."""
    rows = []
    for k, gated in ((4096, False), (11008, True)):
        for m in (1, 1024, 2048, 8192):
            r = Rows(lib, m, k, gated)
            t = r.time({"reorder_g128_o128": r.quantize(128, 128, S4_E4M3, 0.9, True), "g128_o128": r.quantize(128, 128, S4_E4M3, 0.9, False),
                        "per_token": r.quantize(0, 0, S8, 1.0, False)})
            rows.append(report("gated_silu" if gated else "quantize", m, k, t, r.read + r.written + m * k // 32, copy, gated=gated))
            del r
            torch.cuda.empty_cache()
    return rows


def time_layer(lib, product):
    """The share of the row operators of one layer of 7B parameters and 2048 tokens, without attention: Atom's s4_e4m3. `product`
    makes a call of 2048 tokens from output channels, input channels and the number of copies of the weights."""
    m, hidden, inner = 2048, 4096, 11008
    shapes = {"qkv": (3 * hidden, hidden), "o": (hidden, hidden), "gate_up": (2 * inner, hidden), "down": (hidden, inner)}
    products = measure({name: (lambda n=n, k=k: product(n, k, max(2, int(2e8 / (n * k / 2))))) for name, (n, k) in shapes.items()}, 8, 5)
    x, gate = Rows(lib, m, hidden), Rows(lib, m, inner, gated=True)
    rows = measure({"norm_quantize": x.norm(128, 128, S4_E4M3, 0.9, True), "quantize": x.quantize(128, 128, S4_E4M3, 0.9, True),
                    "gated_act_quantize": gate.quantize(128, 128, S4_E4M3, 0.9, False)}, 20, 5)
    total = sum(products.values())
    shares = {name: us / total for name, us in rows.items()}
    of_layer = shares["norm_quantize"] * 2 + shares["quantize"] + shares["gated_act_quantize"]
    text = " ".join(f"{name} {us:.1f}us" + (f"={100 * shares[name]:.2f}%" if name in shares else "") for name, us in {**products, **rows}.items())
    print(f"7B layer, {m} tokens: {text}; two norms and the other two {100 * of_layer:.2f}% of the products' {total:.0f}us", flush=True)
    return {"tokens": m, "products_us": products, "rows_us": rows, "rows_over_products": of_layer}
