import { Tensor } from 'onnxruntime-common';
import type { InferenceSession } from 'onnxruntime-common';
import { inputError } from '../../../ops/common/errors.js';
import type { Feeds } from './session.js';
import type { TextModel } from './text-model.js';

type Metadata = InferenceSession.TensorValueMetadata;

/** New tokens of a run, all arrays row by row. */
export interface Step {
  readonly batch: number;
  /** Columns of new tokens. */
  readonly tokens: number;
  /** Columns before them. */
  readonly start: number;
  /** [batch, tokens] */
  readonly ids: ArrayLike<number>;
  /** [batch, tokens] */
  readonly positions: ArrayLike<number>;
  /** [batch, columns]: 1 where there is a token, before the run or new. */
  readonly mask: ArrayLike<number>;
  /** Whether the scores of the last column are enough. */
  readonly lastOnly: boolean;
}

/**
 * Memory of int64 inputs, used again in every step: a mask of thousands of columns for each token would keep the garbage collector busy. What
 * was made before is overwritten.
 */
export class Scratch {
  readonly #buffers = new Map<string, ArrayBuffer>();

  /** Values of an input as int64; the array is valid until the same input is asked for again. */
  int64(name: string, values: ArrayLike<number>): BigInt64Array {
    const bytes = 8 * values.length;
    let buffer = this.#buffers.get(name);
    if (!buffer || buffer.byteLength < bytes) {
      buffer = new ArrayBuffer(buffer ? Math.max(bytes, 2 * buffer.byteLength) : bytes);
      this.#buffers.set(name, buffer);
    }
    // Little-endian halves: a BigInt for each value would cost more than a step of a small model.
    const halves = new Int32Array(buffer, 0, 2 * values.length);
    for (let i = 0; i < values.length; i++) {
      halves[2 * i] = values[i]!;
      halves[2 * i + 1] = values[i]! < 0 ? -1 : 0;
    }
    return new BigInt64Array(buffer, 0, values.length);
  }
}

/** The feeds of a step without the cache. @throws input error for an input whose type or rank text cannot fill */
export function stepInputs(model: TextModel, step: Step, scratch = new Scratch()): Feeds {
  const feeds: Feeds = { [model.ids.name]: integers(model.ids, step.ids, [step.batch, step.tokens], scratch) };
  for (const extra of model.extras) feeds[extra.input.name] = extraTensor(extra, step, scratch);
  return feeds;
}

/**
 * Feeds of one run of one sequence: new tokens after `start` others, whose cache is left out at the start. A cache in place then gets room for
 * these tokens alone.
 */
export function stepFeeds(model: TextModel, ids: ArrayLike<number>, start = 0, past?: Feeds): Feeds {
  const tokens = ids.length;
  const positions = Array.from({ length: tokens }, (_, i) => start + i);
  const mask = new Uint8Array(start + tokens).fill(1);
  return {
    ...stepInputs(model, { batch: 1, tokens, start, ids, positions, mask, lastOnly: false }),
    ...(past ?? emptyPast(model, 1, model.cache === 'in_place' ? tokens : 0)),
  };
}

/** The cache of `batch` sequences without tokens, with room for some if it is one in place. */
export function emptyPast(model: TextModel, batch: number, room = 0): Feeds {
  return Object.fromEntries(
    model.past.map(({ input }) => {
      const dims = cacheDims(model, input, batch, room);
      // A fixed length (Optimum writes none, some exports 1) cannot be fed empty; the sequence axis of a cache is the last but one.
      const empty = dims.includes(room) ? dims : dims.map((size, axis) => (axis === dims.length - 2 ? room : size));
      return [input.name, zeros(input, empty)];
    }),
  );
}

/** Cache outputs of a run, renamed to the inputs of the next. */
export function nextPast(model: TextModel, outputs: Readonly<Record<string, unknown>>): Feeds {
  return Object.fromEntries(model.past.map(({ input, output }) => [input.name, outputs[output] as Tensor]));
}

/** Shape of a cache input for `batch` sequences and `length` columns. @throws input error if its last dimension is not known */
export function cacheDims({ dims }: TextModel, input: Metadata, batch: number, length: number): number[] {
  const { name, shape } = input;
  return shape.map((dim, axis) => {
    if (typeof dim === 'number' && dim >= 0) return dim;
    const known = dims[dim];
    if (known !== undefined) return known;
    if (axis === 0 && shape.length === 4) return batch;
    if (axis === shape.length - 1)
      throw inputError(
        name,
        `has shape [${shape.join(', ')}], expected a fixed last dimension`,
        `Say how large "${dim}" is (facts: textFacts(loadModel(path)), from ort-lowbit/rewriter).`,
      );
    return length;
  });
}

/** A tensor of zeros for a cache input. @throws input error for another type, or if there is not so much memory */
export function zeros({ name, type }: Metadata, dims: readonly number[]): Tensor {
  const count = dims.reduce((product, dim) => product * dim, 1);
  try {
    if (type === 'float32') return new Tensor('float32', new Float32Array(count), dims);
    if (type === 'float16') return new Tensor('float16', new Uint16Array(count), dims);
    if (type === 'uint8') return new Tensor('uint8', new Uint8Array(count), dims);
  } catch (cause) {
    throw inputError(
      name,
      `a cache [${dims.join(', ')}] finds no memory (${(cause as Error).message}), expected a smaller one`,
      'Ask for fewer tokens or a smaller capacity.',
      cause,
    );
  }
  throw inputError(name, `is ${type}, expected a cache of float32, float16 or uint8 (quantized)`);
}

function extraTensor({ input, kind }: TextModel['extras'][number], step: Step, scratch: Scratch): Tensor {
  const { batch, tokens, start } = step;
  const rank = input.shape.length;
  switch (kind) {
    case 'mask':
      if (rank !== 2) throw inputError(input.name, `has rank ${rank}, expected 2 (batch, all tokens)`);
      return integers(input, step.mask, [batch, step.mask.length / batch], scratch);
    case 'positions':
      if (rank === 1 && batch > 1)
        throw inputError(input.name, `has no batch dimension, expected one for ${batch} texts`);
      return integers(input, step.positions, rank === 1 ? [tokens] : [batch, tokens], scratch);
    case 'types':
      return integers(input, new Uint8Array(batch * tokens), [batch, tokens], scratch);
    case 'use-cache':
      return integers(input, [start > 0 ? 1 : 0], rank === 0 ? [] : [1], scratch);
    case 'keep-logits':
      return integers(input, [step.lastOnly ? 1 : 0], rank === 0 ? [] : [1], scratch);
    case 'cache-positions':
      return integers(
        input,
        Array.from({ length: tokens }, (_, i) => start + i),
        [tokens],
        scratch,
      );
    default:
      return kind satisfies never;
  }
}

function integers(input: Metadata, values: ArrayLike<number>, shape: readonly number[], scratch: Scratch): Tensor {
  switch (input.type) {
    case 'int64':
      return new Tensor('int64', scratch.int64(input.name, values), shape);
    case 'int32':
      return new Tensor('int32', Int32Array.from(values), shape);
    case 'float32':
      return new Tensor('float32', Float32Array.from(values), shape);
    case 'bool':
      return new Tensor('bool', Uint8Array.from(values), shape);
    default:
      throw inputError(input.name, `is ${input.type}, expected int64, int32, float32 or bool`);
  }
}
