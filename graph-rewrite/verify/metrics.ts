import { logSumExp } from '../../native/js/lm/logits.js';
import { argmax } from '../../native/js/lm/sample.js';

/** Signal and error power of a tensor that is compared piece by piece, in double. */
export class SignalError {
  #signal = 0;
  #error = 0;
  #isEmpty = true;

  /**
   * Adds rows of [columns].
   * @param order column i of `test` belongs to column order[i] of `reference`
   * @param factors column k of `reference` is factors[k] times what `test` holds
   */
  add(reference: Float32Array, test: Float32Array, columns: number, order?: Int32Array, factors?: Float32Array): void {
    if (reference.length > 0) this.#isEmpty = false;
    for (let start = 0; start < reference.length; start += columns) {
      for (let i = 0; i < columns; i++) {
        const k = order ? order[i]! : i;
        const expected = reference[start + k]! / (factors ? factors[k]! : 1);
        const difference = test[start + i]! - expected;
        this.#signal += expected * expected;
        this.#error += difference * difference;
      }
    }
  }

  /** Whether nothing was added. */
  get isEmpty(): boolean {
    return this.#isEmpty;
  }

  /** Signal-to-quantization-noise ratio, 10·log10(Σ reference² / Σ error²); Infinity without error, NaN if a value was not finite. */
  get sqnrDb(): number {
    return 10 * Math.log10(this.#signal / this.#error);
  }
}

/** How far predicted distributions are apart, token by token. */
export class DistributionError {
  #divergence = 0;
  #agreeing = 0;
  #rows = 0;

  /**
   * Adds one row of logits each.
   * @param referenceSum `logSumExp(reference)`, for callers who have it
   */
  add(reference: Float32Array, test: Float32Array, referenceSum = logSumExp(reference)): void {
    const testSum = logSumExp(test);
    let divergence = 0;
    for (let i = 0; i < reference.length; i++) {
      const logP = reference[i]! - referenceSum;
      // Written so that NaN counts: a probability of 0 does not, a value that is no number does.
      if (!(logP <= -700)) divergence += Math.exp(logP) * (logP - (test[i]! - testSum));
    }
    this.#divergence += divergence;
    if (argmax(reference) === argmax(test)) this.#agreeing++;
    this.#rows++;
  }

  get rows(): number {
    return this.#rows;
  }

  /** Mean of KL(reference ‖ test), nats a token; NaN if a score was NaN. */
  get klDivergence(): number {
    return this.#divergence / this.#rows;
  }

  /** Share of tokens for which both predict the same. */
  get top1Agreement(): number {
    return this.#agreeing / this.#rows;
  }
}
