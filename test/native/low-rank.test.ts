import { deepEqual, ok } from 'node:assert/strict';
import { loadNative } from '../../native/js/load.js';
import { Random } from '../helpers/random.js';

const { lowRank } = loadNative().addon;

/** Singular values by one-sided Jacobi rotations of the columns, in double precision, the largest first. */
function singularValues(matrix: Float32Array, rows: number, cols: number): number[] {
  const columns = Array.from({ length: cols }, (_, j) =>
    Float64Array.from({ length: rows }, (_unused, i) => matrix[i * cols + j]!),
  );
  const dot = (a: Float64Array, b: Float64Array): number => a.reduce((sum, x, i) => sum + x * b[i]!, 0);
  for (let sweep = 0, rotated = true; rotated && sweep < 40; sweep++) {
    rotated = false;
    for (let p = 0; p < cols; p++) {
      for (let q = p + 1; q < cols; q++) {
        const [a, b] = [columns[p]!, columns[q]!];
        const [aa, bb, ab] = [dot(a, a), dot(b, b), dot(a, b)];
        if (Math.abs(ab) <= 1e-13 * Math.sqrt(aa * bb)) continue;
        rotated = true;
        const theta = (bb - aa) / (2 * ab);
        const t = (theta < 0 ? -1 : 1) / (Math.abs(theta) + Math.sqrt(theta * theta + 1));
        const [cosine, sine] = [1 / Math.sqrt(t * t + 1), t / Math.sqrt(t * t + 1)];
        for (let i = 0; i < rows; i++) {
          const [x, y] = [a[i]!, b[i]!];
          a[i] = cosine * x - sine * y;
          b[i] = sine * x + cosine * y;
        }
      }
    }
  }
  return columns.map((column) => Math.sqrt(dot(column, column))).sort((a, b) => b - a);
}

/** ‖matrix − up·down‖². */
function left(matrix: Float32Array, rows: number, cols: number, { up, down }: Awaited<ReturnType<typeof lowRank>>) {
  const rank = up.length / rows;
  let sum = 0;
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < cols; j++) {
      let value = matrix[i * cols + j]!;
      for (let r = 0; r < rank; r++) value -= up[i * rank + r]! * down[r * cols + j]!;
      sum += value * value;
    }
  }
  return sum;
}

const energy = (values: readonly number[]): number => values.reduce((sum, value) => sum + value * value, 0);

describe('low-rank approximation', () => {
  const random = new Random('low rank');
  const noise = (rows: number, cols: number) => random.normals('float32', rows * cols) as Float32Array;

  it('leaves what the singular value decomposition leaves, for every rank', async () => {
    for (const [rows, cols] of [
      [24, 40],
      [40, 24],
      [7, 7],
      [1, 5],
    ] as const) {
      const matrix = noise(rows, cols);
      const values = singularValues(matrix, rows, cols);
      for (let rank = 1; rank <= Math.min(rows, cols); rank++) {
        const best = energy(values.slice(rank));
        const rest = left(matrix, rows, cols, await lowRank(matrix, rows, cols, rank, 1));
        ok(Math.abs(rest - best) < 1e-5 * energy(values), `${rows}x${cols} rank ${rank}: ${rest}, best ${best}`);
      }
    }
  });

  it('is close to it where iteration is needed: noise, whose singular values differ little', async () => {
    const [rows, cols] = [90, 110];
    const matrix = noise(rows, cols);
    const values = singularValues(matrix, rows, cols);
    for (const rank of [1, 8]) {
      const best = energy(values.slice(0, rank));
      const kept = energy(values) - left(matrix, rows, cols, await lowRank(matrix, rows, cols, rank, 2));
      ok(kept > 0.995 * best && kept < 1.00001 * best, `rank ${rank} keeps ${kept}, at best ${best}`);
    }
  });

  it('finds a few large directions exactly, and shares their sizes between both factors', async () => {
    const [rows, cols, rank] = [70, 60, 3];
    const [a, b] = [noise(rows, rank), noise(rank, cols)];
    const matrix = Float32Array.from({ length: rows * cols }, (_, at) => {
      const [i, j] = [Math.floor(at / cols), at % cols];
      return [0, 1, 2].reduce((sum, r) => sum + a[i * rank + r]! * b[r * cols + j]! * 10 ** -r, 0);
    });
    const factors = await lowRank(matrix, rows, cols, rank, 1);
    const values = singularValues(matrix, rows, cols);
    ok(left(matrix, rows, cols, factors) < 1e-8 * energy(values));
    for (let r = 0; r < rank; r++) {
      const up = energy(Array.from({ length: rows }, (_, i) => factors.up[i * rank + r]!));
      const down = energy([...factors.down.subarray(r * cols, (r + 1) * cols)]);
      ok(Math.abs(up / values[r]! - 1) < 1e-3 && Math.abs(down / values[r]! - 1) < 1e-3, `${up} ${down} ${values[r]}`);
    }
    // More than there are: the rest is nothing.
    const more = await lowRank(matrix, rows, cols, 5, 1);
    ok(more.up.every(Number.isFinite) && more.down.every(Number.isFinite));
    ok(left(matrix, rows, cols, more) < 1e-8 * energy(values));
  });

  it('gives zeros for zeros, and the same for any number of threads', async () => {
    const { up, down } = await lowRank(new Float32Array(60 * 80), 60, 80, 2, 1);
    ok(up.every((value) => value === 0) && down.every((value) => value === 0));
    const matrix = noise(200, 130);
    deepEqual(await lowRank(matrix, 200, 130, 4, 1), await lowRank(matrix, 200, 130, 4, 3));
  });
});
