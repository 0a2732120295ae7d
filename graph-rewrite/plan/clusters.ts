/**
 * Channel order of RPTQ (Yuan et al., arXiv 2304.01089): channels whose ranges are alike stand side by side, so that groups which share a
 * scale hold alike channels. K-means on the points (min, max), as in the paper.
 */

/** The paper's number of clusters in front of linear layers. */
export const clusterCount = 32;

/** The paper's restarts; the best result counts. */
const restarts = 10;
/** Rounds of a restart at most; assignments usually settle in fewer. */
const rounds = 50;

/**
 * Clusters from the narrowest to the widest, each contiguous; inside a cluster the channel of the smaller magnitude comes first, so that a
 * group across a border holds what is nearest there.
 * @param min smallest value of each channel
 * @param max largest value of each channel
 */
export function clusterOrder(min: Float32Array, max: Float32Array, count = clusterCount): Int32Array {
  const labels = cluster(min, max, Math.min(count, min.length));
  const size = (k: number) => Math.max(-min[k]!, max[k]!);
  const widths = new Float64Array(count);
  labels.forEach((label, k) => (widths[label] = Math.max(widths[label]!, size(k))));
  return Int32Array.from(labels.keys()).sort(
    (a, b) => widths[labels[a]!]! - widths[labels[b]!]! || labels[a]! - labels[b]! || size(a) - size(b) || a - b,
  );
}

/** The cluster of each channel, 0 … count − 1; the same for the same ranges. */
export function cluster(min: Float32Array, max: Float32Array, count: number): Int32Array {
  let best: { labels: Int32Array; cost: number } | undefined;
  const random = generator();
  for (let restart = 0; restart < restarts; restart++) {
    const found = lloyd(min, max, seeds(min, max, count, random));
    if (!best || found.cost < best.cost) best = found;
  }
  return best!.labels;
}

interface Centers {
  readonly x: Float64Array;
  readonly y: Float64Array;
}

/** k-means++: each seed is drawn with a probability that grows with the square of its distance from those before. */
function seeds(min: Float32Array, max: Float32Array, count: number, random: () => number): Centers {
  const channels = min.length;
  const centers: Centers = { x: new Float64Array(count), y: new Float64Array(count) };
  const distances = new Float64Array(channels).fill(Infinity);
  let chosen = Math.floor(random() * channels);
  for (let c = 0; c < count; c++) {
    centers.x[c] = min[chosen]!;
    centers.y[c] = max[chosen]!;
    let total = 0;
    for (let k = 0; k < channels; k++) {
      const distance = (min[k]! - centers.x[c]!) ** 2 + (max[k]! - centers.y[c]!) ** 2;
      distances[k] = Math.min(distances[k]!, distance);
      total += distances[k]!;
    }
    let left = random() * total;
    chosen = distances.findIndex((distance) => (left -= distance) < 0);
    // Fewer different points than clusters: the rest stay empty.
    if (chosen < 0) chosen = 0;
  }
  return centers;
}

function lloyd(min: Float32Array, max: Float32Array, { x, y }: Centers): { labels: Int32Array; cost: number } {
  const labels = new Int32Array(min.length).fill(-1);
  const count = x.length;
  for (let round = 0; ; round++) {
    let cost = 0;
    let moved = false;
    const sums = { x: new Float64Array(count), y: new Float64Array(count), members: new Float64Array(count) };
    for (let k = 0; k < labels.length; k++) {
      let nearest = 0;
      let distance = Infinity;
      for (let c = 0; c < count; c++) {
        const each = (min[k]! - x[c]!) ** 2 + (max[k]! - y[c]!) ** 2;
        if (each < distance) [nearest, distance] = [c, each];
      }
      moved ||= labels[k] !== nearest;
      labels[k] = nearest;
      cost += distance;
      sums.x[nearest]! += min[k]!;
      sums.y[nearest]! += max[k]!;
      sums.members[nearest]!++;
    }
    if (!moved || round === rounds) return { labels, cost };
    for (let c = 0; c < count; c++) {
      if (sums.members[c] === 0) continue;
      x[c] = sums.x[c]! / sums.members[c]!;
      y[c] = sums.y[c]! / sums.members[c]!;
    }
  }
}

/** A fixed sequence of numbers in [0, 1): multiplicative congruential, exact in doubles (Park and Miller). */
function generator(): () => number {
  let state = 1;
  return () => {
    state = (state * 48271) % 2147483647;
    return state / 2147483647;
  };
}
