"""Timing of GPU work through CUDA graphs, methods interleaved, as bench/gpu/*.py share it."""
import ctypes
import statistics

import torch

P = ctypes.c_void_p


def ptr(t):
    return P(t.data_ptr()) if t is not None else P(0)


def stream():
    return P(torch.cuda.current_stream().cuda_stream)


class Method:
    """`calls` calls in one CUDA graph: call(i) should rotate through copies of what it reads, so that L2 does not hold it."""

    def __init__(self, name, call, calls):
        self.name, self.calls, self.times = name, calls, []
        self.call = call  # keeps alive what the graph reads
        side = torch.cuda.Stream()
        with torch.cuda.stream(side):
            call(0)
        torch.cuda.synchronize()
        self.graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(self.graph, stream=side):
            for i in range(calls):
                call(i)
        self.graph.replay()
        torch.cuda.synchronize()

    def time(self):
        a, b = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        a.record()
        self.graph.replay()
        b.record()
        b.synchronize()
        self.times.append(a.elapsed_time(b) * 1e3 / self.calls)

    @property
    def us(self):
        return statistics.median(self.times)


def measure(makers, calls, repeats):
    """Median microseconds a call, by name; a method that cannot run is reported and left out."""
    methods = []
    for name, make in makers.items():
        try:
            methods.append(Method(name, make(), calls))
        except Exception as e:  # a peer may lack a shape; ours must not
            print(f"  {name}: {str(e)[:100]}")
    for _ in range(repeats):
        for m in methods:
            m.time()
    return {m.name: m.us for m in methods}


def copy_bandwidth():
    """GB/s of a large device-to-device copy, bytes read plus bytes written."""
    a = torch.empty(2**31, dtype=torch.uint8, device="cuda")
    b = torch.empty_like(a)
    times = []
    for _ in range(6):
        start, end = torch.cuda.Event(enable_timing=True), torch.cuda.Event(enable_timing=True)
        start.record()
        b.copy_(a)
        end.record()
        end.synchronize()
        times.append(start.elapsed_time(end))
    return 2 * a.numel() / min(times) / 1e6
