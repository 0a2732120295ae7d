/** Statistics of one activation, per channel, over all calibration rows. */
export interface ChannelStats {
  /** Name of the value in the float model. */
  readonly inputValue: string;
  readonly channels: number;
  /** Rows (tokens) seen. */
  readonly rows: number;
  /** Mean of x² over all rows: the diagonal of the Hessian 2XᵀX up to a factor. */
  readonly meanSquare: Float64Array;
  readonly min: Float32Array;
  readonly max: Float32Array;
  /** The larger of −min and max. */
  readonly absMax: Float32Array;
  /** Mean of |x| over the rows of a run, the largest over all runs (Atom's `abs_mean`). */
  readonly absMean: Float64Array;
  /** Some of the rows as they are, [rows, channels], spread over all runs; only where they were asked for. */
  readonly samples?: Float32Array;
}

/** Sums of one run, each [channels]. */
export interface RunSums {
  readonly rows: number;
  readonly squares: Float32Array;
  readonly magnitudes: Float32Array;
  readonly min: Float32Array;
  readonly max: Float32Array;
  /** [rows, channels]. */
  readonly samples?: Float32Array | undefined;
}

/** Adds up runs in double. */
export class StatsAccumulator {
  readonly channels: number;
  readonly #squares: Float64Array;
  readonly #absMean: Float64Array;
  readonly #min: Float32Array;
  readonly #max: Float32Array;
  readonly #samples: Float32Array[] = [];
  #rows = 0;

  constructor(channels: number) {
    this.channels = channels;
    this.#squares = new Float64Array(channels);
    this.#absMean = new Float64Array(channels);
    this.#min = new Float32Array(channels).fill(Infinity);
    this.#max = new Float32Array(channels).fill(-Infinity);
  }

  /** @returns the first channel that is not finite in this run, which is then not added */
  add({ rows, squares, magnitudes, min, max, samples }: RunSums): number | undefined {
    for (let c = 0; c < this.channels; c++) {
      if (!Number.isFinite(squares[c]! + magnitudes[c]!)) return c;
    }
    for (let c = 0; c < this.channels; c++) {
      this.#squares[c]! += squares[c]!;
      this.#absMean[c] = Math.max(this.#absMean[c]!, magnitudes[c]! / rows);
      this.#min[c] = Math.min(this.#min[c]!, min[c]!);
      this.#max[c] = Math.max(this.#max[c]!, max[c]!);
    }
    this.#rows += rows;
    if (samples) this.#samples.push(samples);
    return undefined;
  }

  result(inputValue: string): ChannelStats {
    return {
      inputValue,
      channels: this.channels,
      rows: this.#rows,
      meanSquare: this.#squares.map((sum) => sum / this.#rows),
      min: this.#min,
      max: this.#max,
      absMax: this.#max.map((max, c) => Math.max(max, -this.#min[c]!)),
      absMean: this.#absMean,
      ...(this.#samples.length > 0 ? { samples: joined(this.#samples) } : {}),
    };
  }
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, part) => sum + part.length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}
