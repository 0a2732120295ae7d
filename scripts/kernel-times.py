#!/usr/bin/env python3
"""Sums what `ncu --metrics gpu__time_duration.sum --csv` printed by kernel. usage: … | kernel-times.py ROWS"""
import collections
import csv
import re
import sys

lines = [line for line in sys.stdin if line.startswith('"')]
times, calls = collections.Counter(), collections.Counter()
for row in csv.DictReader(lines):
    unit = {"ns": 1e-3, "us": 1, "nsecond": 1e-3, "usecond": 1, "ms": 1e3, "msecond": 1e3}[row["Metric Unit"]]
    name = re.sub(r"\(.*|void |<unnamed>::", "", row["Kernel Name"])[:110]
    times[name] += float(row["Metric Value"].replace(",", "")) * unit
    calls[name] += 1
print(f"  {sum(times.values()):9.1f} us in {sum(calls.values())} kernels")
for name, us in times.most_common(int(sys.argv[1])):
    print(f"  {us:9.1f} us {calls[name]:4d}  {name}")
