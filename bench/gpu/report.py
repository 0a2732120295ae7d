#!/usr/bin/env python3
"""Writes the tables of docs/performance-gemm.md from what run.py measured.

usage: report.py BENCH.json COMMIT DATE > docs/performance-gemm.md
"""
import json
import sys
import textwrap

from markdown import table

path, commit, date = sys.argv[1:]
with open(path) as file:
    result = json.load(file)
copy = result["copy_GBps"]
shapes = result["gemm"]

PEERS = {"cublas_fp16": "cuBLAS fp16", "cublas_fp8": "cuBLAS fp8", "cublas_int8": "cuBLAS int8", "triton_fp8_g128": "Triton, fp8 g128"}
OURS = {
    "w8a8": "w8a8",
    "atom_w4a4": "atom, s4_e4m3",
    "atom_pow2": "atom, s4_e4m3, powers of two",
    "atom_s4": "atom, s4",
    "atom_s4_pow2": "atom, s4, powers of two",
    "w4a16": "w4a16 g128",
    "e2m1_e4m3": "e2m1 g128 × e4m3",
    "e2m1_pow2": "the same, powers of two",
    "e4m3_e4m3": "e4m3 g128 × e4m3",
}
FEW = 64
MANY = 1024


def weight_bytes(method, shape):
    """Bytes of codes and scales that a product has to read."""
    n, k = shape["N"], shape["K"]
    if method.startswith("atom"):
        return shape["atom_bytes"]
    if method == "w8a8":
        return n * k + 2 * n
    codes = n * k if method == "e4m3_e4m3" else n * k // 2
    return codes + n * (k // 128) * 2


def tops(method, shape):
    return 2e-6 * shape["M"] * shape["N"] * shape["K"] / shape["us"][method]


def share(method, shape):
    """Of the copy bandwidth, per cent."""
    return 100 * weight_bytes(method, shape) / shape["us"][method] / 1e3 / copy


def share_of_read(method, shape):
    """Of what a kernel reaches that only reads as many bytes, per cent; it read those of the nearest width."""
    read = "read_8bit" if method in ("w8a8", "e4m3_e4m3") else "read_4bit"
    rate = shape["read_bytes"][read] / shape["us"][read]
    return 100 * weight_bytes(method, shape) / shape["us"][method] / rate


def name(shape):
    return f"{shape['M']}, {shape['K']}, {shape['N']}"


def cell(method, shape, value):
    return value(method, shape) if method in shape["us"] else "-"


def span(values, form="{:.0f}"):
    low, high = form.format(min(values)), form.format(max(values))
    return low if low == high else f"{low}–{high}"


def ratios(method, peer, least):
    return [s["us"][peer] / s["us"][method] for s in shapes if s["M"] >= least and method in s["us"] and peer in s["us"]]


def paragraph(text):
    print("\n".join(textwrap.wrap(text, 118, break_long_words=False, break_on_hyphens=False)) + "\n")


def bullet(text):
    print("\n".join(textwrap.wrap("* " + text, 118, subsequent_indent="  ", break_long_words=False, break_on_hyphens=False)))


methods = {**PEERS, **OURS}
print("# Products on CUDA, every shape\n")
paragraph(
    f"One {result['device']}, {date}, PyTorch {result['torch']}, one process, medians of interleaved repeats, commit {commit}. Every "
    "method is a CUDA graph of many calls that rotate through copies of the weights (220 MB and more). Device-to-device copy in the "
    f"same run: {copy:.0f} GB/s, bytes read plus bytes written. Measured by `npm run bench:gpu`, this page written by "
    "`bench/gpu/report.py`. What it means, and what bounds it: [performance.md](performance.md)."
)
paragraph(
    '"atom": 4-bit weights in groups of 128 with 128 outlier channels; its activations are stored as FP8 codes (s4_e4m3, '
    '`--target sm90`) or as any chip reads them (s4). "Powers of two": the weight scales of a row are powers of two times each other '
    "(`weight.scaleConstraint=m2`). The Triton kernel multiplies codes that are 8 bits wide already "
    "(`bench/gpu/triton_group.py`, best of five tile shapes)."
)
print("""![Speed of products relative to cuBLAS in float16, by number of tokens](img/products-speedup.svg)

## Time

µs (TOPS or TFLOP/s):
""")
table(
    ["M, K, N", *methods.values()],
    [[name(s), *(cell(m, s, lambda m, s: f"{s['us'][m]:.1f} ({tops(m, s):.0f})") for m in methods)] for s in shapes],
)

READS = {"read_4bit": "plain read, 4 bits", "read_8bit": "plain read, 8 bits"}


def few_cell(method, shape):
    of_read = f" ({share_of_read(method, shape):.0f})" if "read_4bit" in shape["us"] else ""
    return f"{share(method, shape):.0f}{of_read}"


def read_cell(read, shape):
    us = shape["us"][read]
    return f"{us:.1f} µs, {100 * shape['read_bytes'][read] / us / 1e3 / copy:.0f}"


print("## Few tokens\n")
paragraph(
    "Bytes of weights and scales a second, per cent of the copy bandwidth (in brackets: of what a kernel reaches that only reads as "
    "many bytes and depends on nothing, in the same graphs and the same run):"
)
table(
    ["M, K, N", *OURS.values(), *READS.values()],
    [[name(s), *(cell(m, s, few_cell) for m in OURS), *(cell(r, s, read_cell) for r in READS)] for s in shapes if s["M"] <= FEW],
)

print(f"""## Beside the peers

From {MANY} tokens on:
""")
table(
    ["", "TOPS or TFLOP/s", "× cuBLAS fp16", "× cuBLAS fp8", "× Triton"],
    [
        [
            title,
            span([tops(m, s) for s in shapes if s["M"] >= MANY and m in s["us"]]),
            *(span(ratios(m, peer, MANY), "{:.2f}") for peer in ("cublas_fp16", "cublas_fp8", "triton_fp8_g128")),
        ]
        for m, title in OURS.items()
    ],
)
print(f"Slower than cuBLAS in float16, of all {len(shapes)} shapes, at M×K×N (times as fast):\n")
for m, title in OURS.items():
    slower = [s for s in shapes if m in s["us"] and s["us"]["cublas_fp16"] < s["us"][m]]
    found = ", ".join(f"{s['M']}×{s['K']}×{s['N']} ({s['us']['cublas_fp16'] / s['us'][m]:.2f})" for s in slower)
    bullet(f"**{title}**, at {len(slower)}: {found}" if slower else f"**{title}**: nowhere")
print()


def rows_table(title, about, entries):
    if not entries:
        return
    print(f"## {title}\n\n{about}, float16, µs (per cent of the copy bandwidth, bytes read plus written):\n")
    columns = list(entries[0]["us"])
    table(
        ["M, K", *(c.replace("_", " ") for c in columns)],
        [
            [
                f"{e['M']}, {e['K']}" + (", rows in L2" if e.get("cached") else ""),
                *(f"{e['us'][c]:.1f} ({100 * e['bytes'] / e['us'][c] / 1e3 / copy:.0f})" for c in columns),
            ]
            for e in entries
        ],
    )


rows_table("NormQuantize", "Beside a copy of the same bytes by a kernel and by cudaMemcpyAsync", result["norm"])
rows_table("Quantize", "The same", [e for e in result["quantize"] if not e["gated"]])
rows_table("GatedActQuantize", "silu · up, the same", [e for e in result["quantize"] if e["gated"]])

layer = result["layer"]
products = layer["products_us"]
total = sum(products.values())
print(f"## A layer of 7B parameters, {layer['tokens']} tokens\n")
table(
    ["", "µs", "% of the products"],
    [[name.replace("_", " "), f"{us:.1f}", f"{100 * us / total:.1f}"] for name, us in {**products, **layer["rows_us"]}.items()],
)
