"""A group-scaled product of 8-bit floats as one writes it in Triton: the peer without hand-made kernels."""
import torch
import triton
import triton.language as tl

GROUP = 128


@triton.jit
def group_product(a, b, a_scale, b_scale, y, m, n, k, BM: tl.constexpr, BN: tl.constexpr, BK: tl.constexpr, ROWS: tl.constexpr):
    tile, tiles_m, tiles_n = tl.program_id(0), tl.cdiv(m, BM), tl.cdiv(n, BN)
    # Tiles in bands of ROWS, so that neighbours in time share weights in L2.
    band = tile // (ROWS * tiles_n)
    height = min(tiles_m - band * ROWS, ROWS)
    row, column = band * ROWS + tile % (ROWS * tiles_n) % height, tile % (ROWS * tiles_n) // height
    rows, columns, inner = row * BM + tl.arange(0, BM), column * BN + tl.arange(0, BN), tl.arange(0, BK)
    inside_row, inside_column = rows < m, columns < n
    x_at, w_at = a + rows[:, None] * k + inner[None, :], b + columns[None, :] * k + inner[:, None]
    total = tl.zeros((BM, BN), dtype=tl.float32)
    for g in range(k // BK):
        x = tl.load(x_at, mask=inside_row[:, None], other=0.0)
        w = tl.load(w_at, mask=inside_column[None, :], other=0.0)
        x_scale = tl.load(a_scale + g * m + rows, mask=inside_row, other=0.0)
        w_scale = tl.load(b_scale + g * n + columns, mask=inside_column, other=0.0)
        total += tl.dot(x, w) * x_scale[:, None] * w_scale[None, :]
        x_at += BK
        w_at += BK
    tl.store(y + rows[:, None] * n + columns[None, :], total.to(tl.float16),
             mask=inside_row[:, None] & inside_column[None, :])


class TritonGroups:
    """A function that runs call i on rotating weights, in the tile shape that was fastest for this shape."""

    shapes = [(128, 128, 8, 3), (128, 128, 8, 4), (128, 256, 8, 3), (64, 256, 8, 3), (128, 128, 4, 3)]

    def __init__(self, m, n, k, copies):
        self.m, self.n, self.k = m, n, k
        make = lambda rows: torch.randn(rows, k, device="cuda").to(torch.float8_e4m3fn)
        self.a, self.b = make(m), [make(n) for _ in range(copies)]
        self.a_scale = torch.rand(k // GROUP, m, device="cuda")
        self.b_scale = [torch.rand(k // GROUP, n, device="cuda") for _ in range(copies)]
        self.y = torch.empty(m, n, device="cuda", dtype=torch.half)
        self.shape = min(self.shapes, key=self.time)

    def __call__(self, i):
        self.launch(i % len(self.b), self.shape)

    def launch(self, i, shape):
        bm, bn, warps, stages = shape
        grid = (triton.cdiv(self.m, bm) * triton.cdiv(self.n, bn),)
        group_product[grid](self.a, self.b[i], self.a_scale, self.b_scale[i], self.y, self.m, self.n, self.k,
                            BM=bm, BN=bn, BK=GROUP, ROWS=8, num_warps=warps, num_stages=stages)

    def time(self, shape):
        try:
            self.launch(0, shape)
        except Exception:  # too much shared memory
            return float("inf")
        begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
        begin.record()
        for _ in range(3):
            self.launch(0, shape)
        end.record()
        end.synchronize()
        return begin.elapsed_time(end)
