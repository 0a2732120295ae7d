import { deepEqual, equal, ok } from 'node:assert/strict';
import { join } from 'node:path';
import { analyze, type Analysis } from '../../graph-rewrite/analyze/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { restoreExport } from '../../models/bookworm.js';
import { zooFolder } from '../helpers/files.js';
import { zooNames, zooPath } from '../helpers/zoo.js';

function count(analysis: Analysis): Record<string, number> {
  const counts: Record<string, number> = {};
  for (const { role, quantizable } of analysis.linears) {
    const key = quantizable ? role : `${role} (left)`;
    counts[key] = (counts[key] ?? 0) + 1;
  }
  return counts;
}

const llama = { q_proj: 2, k_proj: 2, v_proj: 2, o_proj: 2, gate_proj: 2, up_proj: 2, down_proj: 2, lm_head: 1 };
const gpt2 = { qkv_proj: 2, o_proj: 2, fc1: 2, fc2: 2, lm_head: 1 };
const opt = { q_proj: 2, k_proj: 2, v_proj: 2, o_proj: 2, fc1: 2, fc2: 2, lm_head: 1 };
const bert = { q_proj: 2, k_proj: 2, v_proj: 2, o_proj: 2, fc1: 2, fc2: 2 };
const families: readonly (readonly [string, Record<string, number>, string])[] = [
  ['llama', llama, 'norm:q_proj+k_proj+v_proj attention:o_proj norm:gate_proj+up_proj gate:down_proj'],
  ['gpt2', gpt2, 'norm:qkv_proj attention:o_proj norm:fc1 act:fc2'],
  ['opt', opt, 'norm:q_proj+k_proj+v_proj attention:o_proj norm:fc1 act:fc2'],
  ['bert', bert, 'norm:q_proj+k_proj+v_proj attention:o_proj norm:fc1 act:fc2'],
];

/** Groups of a model as text, one block of it. */
function blocks(analysis: Analysis): string[] {
  const all = analysis.inputs.map(
    ({ producer, linears }) => `${producer.kind}:${linears.map((site) => site.role).join('+')}`,
  );
  const inner = all.filter((group) => !group.endsWith('lm_head'));
  const half = inner.length / 2;
  return [inner.slice(0, half).join(' '), inner.slice(half).join(' ')];
}

describe('analyze: exported models', () => {
  for (const name of zooNames) {
    it(`${name}: finds every layer, its role, block and producer`, () => {
      const [, roles, block] = families.find(([family]) => name.startsWith(family))!;
      const analysis = analyze(loadModel(zooPath(name)));
      deepEqual(count(analysis), roles);
      deepEqual(blocks(analysis), [block, block]);
      for (const site of analysis.linears) {
        const head = site.role === 'lm_head';
        ok(head ? site.layer === undefined : site.layer === 0 || site.layer === 1, `${site.name}: layer ${site.layer}`);
      }
      equal(analysis.norms.length, 5);
      for (const attention of analysis.attentions) equal(attention.headOrderReason, undefined);
      deepEqual(
        analysis.attentions.map(({ heads, kvHeads, headSize, valueRow }) => [heads, kvHeads, headSize, valueRow]),
        Array(2).fill([4, name.startsWith('llama') ? 2 : 4, 16, name.startsWith('gpt2') ? 128 : 0]),
      );
    });
  }

  it('proves residual Adds without broadcasting from shapes, with or without value_info', () => {
    for (const name of zooNames) {
      const { norms, shapes } = analyze(loadModel(zooPath(name)));
      const sums = norms.map(({ x }) => x.producer!).filter((node) => node.is('Add'));
      const proven = sums.filter((add) => shapes.sameShape(add.input(0), add.input(1)));
      // All but the embedding's own (positions may broadcast). OPT puts a Reshape between most Adds and norms.
      ok(proven.length >= (name.startsWith('opt') ? 1 : 4), `${name}: ${proven.length}`);
    }
  });

  for (const kind of ['dynamo', 'genai'] as const) {
    it(`bookworm-11m ${kind}`, () => {
      const analysis = analyze(restoreExport(kind));
      const packed = { qkv_proj: 6 };
      const apart = { q_proj: 6, k_proj: 6, v_proj: 6 };
      deepEqual(count(analysis), {
        ...(kind === 'genai' ? packed : apart),
        ...{ o_proj: 6, gate_proj: 6, up_proj: 6, down_proj: 6, lm_head: 1 },
      });
      deepEqual(
        analysis.attentions.map(({ form, heads, kvHeads, headSize, valueRow, headOrderReason }) =>
          [form, heads, kvHeads, headSize, valueRow, headOrderReason].join(' '),
        ),
        Array(6).fill(kind === 'genai' ? 'GroupQueryAttention 6 2 64 512 ' : 'decomposed 6 2 64 0 '),
      );
    });
  }

  it('leaves layers that are 4 bits already, with that reason', () => {
    const model = loadModel(join(zooFolder, 'genai-graphs', 'cpu-int4-graph-only.onnx'), { requireData: false });
    const { linears } = analyze(model);
    equal(linears.length, 31);
    for (const site of linears) equal(site.reason, 'already quantized to 4 bits by MatMulNBits');
  });

  it('finds the layers of a float16 graph', () => {
    const model = loadModel(join(zooFolder, 'genai-graphs', 'cuda-fp16-graph-only.onnx'), { requireData: false });
    const { linears, norms, gates } = analyze(model);
    deepEqual([linears.length, norms.length, gates.length], [31, 13, 6]);
    ok(linears.every((site) => site.quantizable && site.weight.dtype === 'float16'));
  });
});
