/** Runs a model of one attention with a cache: a prompt, then tokens one by one, each from the cache of the run before. */
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import type { Model } from '../../graph-rewrite/ir/index.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { Random } from './random.js';

export const batch = 2;

/** Sizes of one run: new and earlier tokens, and what each sequence has afterwards. */
export interface Step {
  readonly tokens: number;
  readonly before: number;
  readonly reached: readonly number[];
}

export interface AttentionRun {
  /** Seeds the rows. */
  readonly title: string;
  /** Tokens of each sequence in the prompt of 9; rows of padding are left out of the result. */
  readonly lengths?: readonly [number, number];
}

/** Names of inputs that are not rows or caches, and what they are given. */
function special(name: string, step: Step, type: string): Tensor | undefined {
  const { tokens, before, reached } = step;
  const total = before + tokens;
  const integers = (count: number, value: (i: number) => number, dims: number[]) =>
    type === 'int64'
      ? new Tensor(
          'int64',
          BigInt64Array.from({ length: count }, (_, i) => BigInt(value(i))),
          dims,
        )
      : new Tensor(
          'int32',
          Int32Array.from({ length: count }, (_, i) => value(i)),
          dims,
        );
  switch (name) {
    case 'last':
      return integers(batch, (b) => reached[b]! - 1, [batch]);
    case 'total':
      return integers(1, () => total, []);
    case 'position_ids':
      return integers(batch * tokens, (i) => before + (i % tokens), [batch, tokens]);
    case 'attention_mask':
      return integers(batch * total, (i) => Number(i % total < reached[Math.floor(i / total)]!), [batch, total]);
    default:
      return undefined;
  }
}

/** Outputs of a prompt of 9 tokens and of two tokens after it. */
export async function attentionOutputs(model: Model, { title, lengths = [9, 9] }: AttentionRun): Promise<number[]> {
  const session = await InferenceSession.create(serializeModel(model), { logSeverityLevel: 3 });
  const random = new Random(title);
  const rows: number[] = [];
  let present: Readonly<Record<string, Tensor>> = {};
  let before = 0;
  const reached = [...lengths];
  for (const tokens of [9, 1, 1]) {
    if (before > 0) reached.forEach((length, b) => (reached[b] = length + 1));
    const total = before + tokens;
    const sizes: Readonly<Record<string, number>> = { batch, tokens, total, past: 0 };
    const feeds: Record<string, Tensor> = {};
    for (const input of session.inputMetadata) {
      if (!input.isTensor) continue;
      const { name, type, shape } = input;
      const dims = shape.map((dim) => (typeof dim === 'number' ? dim : sizes[dim]!));
      const count = dims.reduce((all, dim) => all * dim, 1);
      const given =
        special(name, { tokens, before, reached }, type) ?? present[name.replace('past_key_values', 'present')];
      const empty = { uint8: new Uint8Array(0), float16: new Uint16Array(0) };
      // Booleans come as marks that are mostly true; what a past holds at first is nothing.
      const data =
        type === 'float32'
          ? random.normals('float32', count)
          : type === 'bool'
            ? Uint8Array.from(random.normals('float32', count), (value, i) => Number(value > -1 || i % total === 0))
            : empty[type as keyof typeof empty];
      feeds[name] = given ?? new Tensor(type as 'float32', data as Float32Array, dims);
    }
    present = (await session.run(feeds)) as Record<string, Tensor>;
    const { data, dims } = present['y']!;
    const width = dims[2]!;
    for (let b = 0; b < batch; b++) {
      const valid = before > 0 ? 1 : lengths[b]!;
      rows.push(...(data as Float32Array).subarray(b * tokens * width, (b * tokens + valid) * width));
    }
    before += tokens;
  }
  await session.release();
  return rows;
}
