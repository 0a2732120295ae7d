#!/usr/bin/env python3
"""Prints the tables of docs/performance-models.md from what scripts/gpu-models.sh measured.

usage: report_models.py RESULTS
"""
import json
import os
import sys

from markdown import table

folder = sys.argv[1]
IN_PLACE = "atom-w4a4kv4_sm90_kv.form_in_place"
POWERS = "weight.scaleConstraint_m2"
NAMES = {
    "float16": "float16",
    "w8a8": "w8a8",
    "w4a16": "w4a16",
    "atom-w4a4_sm90": "atom-w4a4",
    f"atom-w4a4_sm90_{POWERS}": "atom-w4a4, scales in powers of two",
    "zeroquant-fp-w4a8": "zeroquant-fp-w4a8",
    IN_PLACE: "atom-w4a4kv4",
    f"{IN_PLACE}_{POWERS}": "atom-w4a4kv4, scales in powers of two",
    f"{IN_PLACE}_kv.rope_post": "atom-w4a4kv4, keys after RoPE",
}


def results(name):
    path = f"{folder}/{name}.json"
    if not os.path.exists(path):
        return None
    with open(path) as file:
        return json.load(file)["results"]


def section(title, head, rows):
    if not rows:
        return
    print(f"## {title}\n")
    table(head, rows)


def gib(mib):
    return f"{mib / 1024:.1f} GiB"


def stacks(kind, layers, title, value):
    """One row a model, one column a case; `value` of a result, and how many times better than float16's."""
    rows, head, base = [], [], {}
    for name, shown in NAMES.items():
        found = results(f"{kind}-{name}-{layers}")
        if not found:
            continue
        cells = []
        for each in found:
            if each["case"] not in head:
                head.append(each["case"])
            if "error" in each:
                cells.append("failed")
                continue
            base.setdefault(each["case"], each["ms"])
            times = "" if name == "float16" else f" ({base[each['case']] / each['ms']:.2f})"
            cells.append(f"{value(each)}{times}, {gib(each['peakMiB'])}")
        rows.append([shown, *cells])
    section(title, ["model", *head], rows)


milliseconds = lambda each: f"{each['ms']:.2f} ms"
tokens = lambda each: f"{each['tokensPerSecond']:.0f}"
stacks("stack", 8, "8 layers, a run at a time", milliseconds)
stacks("graph", 8, "8 layers, CUDA graphs", milliseconds)
stacks("threads", 8, "8 layers, one host thread", milliseconds)
stacks("whole", 32, "32 layers, CUDA graphs, tokens/s", tokens)

limits = [(shown, results(f"limit-{name}-32")) for name, shown in NAMES.items()]
limits = [(shown, found[0]) for shown, found in limits if found]
section(
    "Largest batch within the limit",
    ["model", "batch", "tokens/s", "× float16"],
    [
        [shown, str(each.get("batch")), tokens(each), f"{each['tokensPerSecond'] / limits[0][1]['tokensPerSecond']:.2f}"]
        for shown, each in limits
    ],
)

texts = [(shown, each) for name, shown in NAMES.items() for each in results(f"generate-{name}") or []]
section(
    "Texts",
    ["model", "texts", "prompts, tokens/s", "decode, tokens/s", "peak"],
    [
        [shown, str(e["batch"]), f"{e['prefillTokensPerSecond']:.0f}", f"{e['decodeTokensPerSecond']:.0f}", gib(e["peakMiB"])]
        for shown, e in texts
    ],
)

rows = []
for each in results("attention") or []:
    peer, *ours = each["rows"]
    cells = [f"{row['us']:.0f} ({row['cacheGBps']:.0f}, {peer['us'] / row['us']:.2f} ×)" for row in ours]
    shape = f"{each['batch']}, {each['tokens']} of {each['total']}, {each['kvHeads']}"
    rows.append([shape, f"{peer['us']:.0f} ({peer['cacheGBps']:.0f})", *cells])
    head = [row["scheme"] for row in each["rows"]]
section("Attention", ["batch, new of all, kv heads", *(head if rows else [])], rows)

products = results("gemm") or []
schemes = list(products[0]["us"]) if products else []
section(
    "Products, µs",
    ["M, K, N", *schemes],
    [
        [f"{e['M']}, {e['K']}, {e['N']}", *(f"{e['us'][s]:.1f}" if e["us"].get(s) else "-" for s in schemes)]
        for e in products
    ],
)
