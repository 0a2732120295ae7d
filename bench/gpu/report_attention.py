#!/usr/bin/env python3
"""Prints the tables of attention in docs/performance.md from what attention.py measured.

usage: report_attention.py ATTENTION.json
"""
import json
import sys

from markdown import table

with open(sys.argv[1]) as file:
    result = json.load(file)
copy = result["copy_GBps"]
HEADS = 32
DIM = 128


def share(entry, method):
    """µs, and the share of the copy bandwidth at which codes and parameters are read."""
    us = entry["us"][method]
    return f"{us:.1f} ({100 * entry['bytes'] / us / 1e3 / copy:.0f} %)"


def peer(entry):
    us = entry["us"].get("torch_f16")
    return ["-", "-"] if us is None else [f"{us:.1f}", f"{us / entry['us']['pre_append']:.2f}"]


def rate(entry, method):
    """µs, and TFLOP/s of the half of the products that a causal mask leaves."""
    us = entry["us"][method]
    flop = 2 * entry["batch"] * HEADS * DIM * entry["tokens"] ** 2
    return f"{us:.0f} ({flop / us / 1e6:.0f})"


print(f"copy: {copy:.0f} GB/s\n")
table(
    ["batch, context", "heads", "bits", "keys before RoPE (copy)", "after RoPE (copy)", "only reading (copy)", "append", "append and attention, before", "PyTorch float16", "PyTorch over ours"],
    [
        [
            f"{e['batch']}, {e['context']}",
            f"{e['heads']}/{e['kv_heads']}",
            str(e["bits"]),
            share(e, "pre"),
            share(e, "post"),
            share(e, "read"),
            f"{e['us']['append']:.1f}",
            f"{e['us']['pre_append']:.1f}",
            *peer(e),
        ]
        for e in result["decode"]
    ],
)
table(
    ["batch", "heads", "keys before RoPE", "after RoPE", "append", "PyTorch float16"],
    [
        [
            str(e["batch"]),
            f"{e['heads']}/{e['kv_heads']}",
            rate(e, "pre"),
            rate(e, "post"),
            f"{e['us']['append']:.0f}",
            rate(e, "torch_f16"),
        ]
        for e in result["prefill"]
    ],
)
