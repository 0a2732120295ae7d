import { deepEqual, equal, ok } from 'node:assert/strict';
import { cluster, clusterOrder } from '../../graph-rewrite/plan/clusters.js';
import { Random } from '../helpers/random.js';

/** Ranges around three kinds of channels, mixed up. */
function ranges(channels: number): { min: Float32Array; max: Float32Array; kind: number[] } {
  const random = new Random('ranges');
  const kinds = [
    [-1, 1],
    [-0.5, 8],
    [-40, 2],
  ] as const;
  const kind = Array.from({ length: channels }, () => random.int(0, 2));
  const near = (value: number) => value * (1 + 0.05 * random.next());
  return {
    kind,
    min: Float32Array.from(kind, (each) => near(kinds[each]![0])),
    max: Float32Array.from(kind, (each) => near(kinds[each]![1])),
  };
}

describe('clusters of channel ranges', () => {
  it('are the kinds that channels come in, and the same every time', () => {
    const { min, max, kind } = ranges(200);
    const labels = cluster(min, max, 3);
    for (let k = 0; k < 200; k++) equal(labels[k] === labels[0], kind[k] === kind[0], `channel ${k}`);
    deepEqual(cluster(min, max, 3), labels);
  });

  it('stand side by side, the widest last', () => {
    const { min, max, kind } = ranges(200);
    const order = clusterOrder(min, max, 3);
    deepEqual(
      [...order].sort((a, b) => a - b),
      Array.from(order.keys()),
    );
    deepEqual(
      [...order].map((k) => kind[k]!),
      [...kind].sort((a, b) => a - b),
    );
  });

  it('waste less of a group than unsorted channels do', () => {
    const { min, max } = ranges(512);
    const waste = (order: ArrayLike<number>): number => {
      let sum = 0;
      for (let start = 0; start < 512; start += 64) {
        const group = Array.from({ length: 64 }, (_, i) => order[start + i]!);
        const [low, high] = [Math.min(...group.map((k) => min[k]!)), Math.max(...group.map((k) => max[k]!))];
        for (const k of group) sum += high - low - (max[k]! - min[k]!);
      }
      return sum;
    };
    ok(waste(clusterOrder(min, max)) < 0.25 * waste(Array.from(min.keys())));
  });

  it('may be more than there are different channels', () => {
    const same = new Float32Array(8).fill(1);
    deepEqual(
      [
        ...clusterOrder(
          same.map((value) => -value),
          same,
          5,
        ),
      ],
      [0, 1, 2, 3, 4, 5, 6, 7],
    );
    deepEqual([...clusterOrder(Float32Array.of(-2, -1), Float32Array.of(1, 1))], [1, 0]);
  });
});
