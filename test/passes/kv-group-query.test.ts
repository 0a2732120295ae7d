/** Every setting of GroupQueryAttention that is taken over means the same: ONNX Runtime's own operator beside ours with 8-bit caches. */
import { ok } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { applyPlan, findRecipe, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { float, int, tensorOf, type Attribute, type Model, type Value } from '../../graph-rewrite/ir/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { InferenceSession, Tensor } from '../../native/js/index.js';
import { TestGraph } from '../helpers/graph.js';
import { Random } from '../helpers/random.js';
import { sqnr } from '../helpers/zoo.js';

const batch = 2;
const heads = 4;
const kvHeads = 2;
const size = 16;
const half = size / 2;
const positions = 32;

interface Setting {
  readonly title: string;
  readonly attributes?: Readonly<Record<string, Attribute>>;
  readonly packed?: boolean;
  readonly bias?: boolean;
  readonly noRotation?: boolean;
  /** Tokens of each sequence in the prompt. */
  readonly lengths?: readonly [number, number];
}

const settings: readonly Setting[] = [
  { title: 'as it is' },
  { title: 'packed q, k and v', packed: true },
  { title: 'a scale', attributes: { scale: float(0.6) } },
  { title: 'a soft cap', attributes: { softcap: float(1.5) } },
  { title: 'a window', attributes: { local_window_size: int(3) } },
  { title: 'interleaved RoPE', attributes: { rotary_interleaved: int(1) } },
  { title: 'no RoPE', noRotation: true },
  { title: 'a bias on the scores', bias: true },
  { title: 'a prompt padded on the right', lengths: [9, 5] },
];

function model({ attributes = {}, packed = false, bias = false, noRotation = false }: Setting): Model {
  const test = new TestGraph(21);
  const { graph } = test;
  const widths = packed ? [heads + 2 * kvHeads] : [heads, kvHeads, kvHeads];
  const fresh = ['q', 'k', 'v'].map((name, i) =>
    widths[i] ? test.input(name, ['batch', 'tokens', widths[i] * size]) : undefined,
  );
  const past = ['key', 'value'].map((kind) =>
    test.input(`past_key_values.0.${kind}`, ['batch', kvHeads, 'past', size]),
  );
  const angle = (of: (x: number) => number) =>
    tensorOf(
      Float32Array.from({ length: positions * half }, (_, i) => of(Math.floor(i / half) * 0.7 ** (i % half))),
      [positions, half],
    );
  const tables = noRotation
    ? []
    : [graph.addInitializer('cos', angle(Math.cos)), graph.addInitializer('sin', angle(Math.sin))];
  const optional: (Value | undefined)[] = [
    ...[tables[0], tables[1], undefined],
    bias ? test.input('bias', ['batch', heads, 'tokens', 'total']) : undefined,
  ];
  const node = graph.addNode({
    ...{ opType: 'GroupQueryAttention', domain: 'com.microsoft', name: 'attention' },
    inputs: [...fresh, ...past, test.input('last', ['batch'], 'int32'), test.input('total', [], 'int32'), ...optional],
    outputs: ['y', 'present.0.key', 'present.0.value'],
    attributes: {
      ...{ num_heads: int(heads), kv_num_heads: int(kvHeads), do_rotary: int(noRotation ? 0 : 1) },
      ...attributes,
    },
  });
  test.output(node.output(0)!, ['batch', 'tokens', heads * size]);
  for (const i of [1, 2]) test.output(node.output(i)!, ['batch', kvHeads, 'all', size]);
  return test.model;
}

/** Outputs of a prompt and of two tokens after it; rows of padding are left out. */
async function outputs(made: Model, setting: Setting): Promise<number[]> {
  const { packed = false, bias = false, lengths = [9, 9] } = setting;
  const session = await InferenceSession.create(serializeModel(made), { logSeverityLevel: 3 });
  const random = new Random(setting.title);
  const rows: number[] = [];
  let present: Readonly<Record<string, Tensor>> = {};
  let before = 0;
  const reached = [...lengths];
  for (const tokens of [9, 1, 1]) {
    if (before > 0) reached.forEach((length, b) => (reached[b] = length + 1));
    const total = before + tokens;
    const floats = (dims: number[]) =>
      new Tensor(
        'float32',
        random.normals(
          'float32',
          dims.reduce((all, dim) => all * dim, 1),
        ),
        dims,
      );
    const feeds: Record<string, Tensor> = {
      q: floats([batch, tokens, (packed ? heads + 2 * kvHeads : heads) * size]),
      last: new Tensor(
        'int32',
        Int32Array.from(reached, (length) => length - 1),
        [batch],
      ),
      total: new Tensor('int32', Int32Array.of(total), []),
    };
    if (!packed) for (const name of ['k', 'v']) feeds[name] = floats([batch, tokens, kvHeads * size]);
    if (bias) feeds['bias'] = floats([batch, heads, tokens, total]);
    for (const input of session.inputMetadata) {
      if (!input.isTensor || !input.name.startsWith('past')) continue;
      const empty = { uint8: new Uint8Array(0), float16: new Uint16Array(0), float32: new Float32Array(0) };
      const data = empty[input.type as keyof typeof empty] as Uint8Array;
      const none = new Tensor(input.type as 'uint8', data, [batch, kvHeads, 0, Number(input.shape[3])]);
      feeds[input.name] = present[input.name.replace('past_key_values', 'present')] ?? none;
    }
    present = (await session.run(feeds)) as Record<string, Tensor>;
    const y = present['y']!.data as Float32Array;
    const width = heads * size;
    for (let b = 0; b < batch; b++) {
      const valid = before > 0 ? 1 : lengths[b]!;
      rows.push(...y.subarray(b * tokens * width, (b * tokens + valid) * width));
    }
    before += tokens;
  }
  await session.release();
  return rows;
}

describe('passes: GroupQueryAttention with a quantized cache', () => {
  for (const setting of settings) {
    it(`${setting.title}: as ONNX Runtime computes it`, async () => {
      const expected = await outputs(model(setting), setting);
      for (const rope of ['pre', 'post']) {
        const quantized = model(setting);
        const analysis = analyze(quantized);
        const recipe = withSettings(findRecipe('kv4'), ['kv.bits=8', `kv.rope=${rope}`]);
        applyPlan(quantized, makePlan(analysis, undefined, recipe, quantized), analysis);
        const measured = sqnr(expected, await outputs(quantized, setting));
        ok(measured >= 38, `keys ${rope} RoPE: ${measured.toFixed(1)} dB`);
      }
    });
  }
});
