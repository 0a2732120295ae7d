import { deepEqual, equal, match, ok, throws } from 'node:assert/strict';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { explain, findRecipe, loadModel, makePlan, withSettings } from '../../graph-rewrite/index.js';
import { int, type Attribute, type Model } from '../../graph-rewrite/ir/index.js';
import { parsePlan } from '../../graph-rewrite/plan/index.js';
import { TestGraph } from '../helpers/graph.js';
import { zooPath } from '../helpers/zoo.js';

const kv4 = findRecipe('kv4');
const planOf = (model: Model, recipe = kv4) => makePlan(analyze(model), undefined, recipe, model);

/** GroupQueryAttention between inputs and outputs, changed in one way. */
function groupQuery(
  change: { size?: number; attributes?: Record<string, Attribute>; positions?: boolean; reader?: boolean } = {},
): Model {
  const { size = 16, attributes = {}, positions = false, reader = false } = change;
  const test = new TestGraph(21);
  const inputs = ['q', 'k', 'v'].map((name) => test.input(name, ['b', 's', 2 * size]));
  const past = ['key', 'value'].map((kind) => test.input(`past_key_values.0.${kind}`, ['b', 2, 'past', size]));
  const node = test.graph.addNode({
    ...{ opType: 'GroupQueryAttention', domain: 'com.microsoft', name: 'attention' },
    inputs: [
      ...[...inputs, ...past, test.input('last', ['b'], 'int32'), test.input('total', [], 'int32')],
      ...(positions
        ? [
            ...['cos', 'sin'].map((name) => test.weight(name, [32, size / 2])),
            test.input('offsets', ['b', 's'], 'int64'),
          ]
        : []),
    ],
    outputs: ['y', 'present.0.key', 'present.0.value'],
    attributes: { num_heads: int(2), kv_num_heads: int(2), do_rotary: int(Number(positions)), ...attributes },
  });
  node.outputs.forEach((value, i) => test.output(value!, i ? ['b', 2, 'all', size] : ['b', 's', 2 * size]));
  if (reader) test.output(test.op('Abs', [past[0]]), ['b', 2, 'past', size]);
  return test.model;
}

describe('plan: key and value caches', () => {
  it('are left alone without the setting, and one decision each with it', () => {
    const model = loadModel(zooPath('llama_kv_dynamo18'));
    equal(planOf(model, findRecipe('w8a8')).caches, undefined);
    const plan = planOf(model);
    deepEqual(plan.caches, [
      ...[0, 1].map((layer) => ({
        ...{ site: layer ? 'node_Softmax_385' : 'node_Softmax_239', layer, decision: 'quantize' },
        ...{ bits: 4, rope: 'pre', clip: 1, form: 'growing' },
        ...{ bytesPerToken: 48, floatBytesPerToken: 256, notes: ['keys before RoPE'] },
      })),
    ]);
    deepEqual(parsePlan(JSON.parse(JSON.stringify(plan)), 'plan.json'), plan);
    match(JSON.stringify(explain(plan).at(-1)), /kv_cache.*u4 keys and values.*48 bytes a token instead of 256/);
  });

  it('of a plan file are checked', () => {
    const plan = JSON.parse(JSON.stringify(planOf(groupQuery()))) as { caches: { bits: number }[] };
    plan.caches[0]!.bits = 3;
    throws(() => parsePlan(plan, 'plan.json'), /plan.json.caches\[0\].bits: is 3, expected one of 4, 8/);
  });

  it('say after RoPE where there is none that there is none', () => {
    const [cache] = planOf(groupQuery(), withSettings(kv4, ['kv.rope=post'])).caches!;
    ok(cache?.decision === 'quantize' && cache.rope === 'none');
  });

  it('cannot stay in place where something asks for their size', () => {
    const inPlace = withSettings(kv4, ['kv.form=in_place']);
    const asked = new TestGraph(21, groupQuery().graph);
    const past = asked.graph.inputs.find(({ name }) => name.endsWith('key'))!;
    asked.output(asked.op('Size', [asked.op('Shape', [past], { name: 'asking' })]), [], 'int64');
    asked.output(asked.op('MatMul', [asked.input('x', ['n', 64]), asked.weight('w', [64, 64])], { name: 'layer' }));
    const w8a8 = withSettings(findRecipe('w8a8'), ['kv.bits=4', 'kv.form=in_place']);
    const [cache] = planOf(asked.model, w8a8).caches!;
    ok(cache?.decision === 'keep');
    match(cache.reason, /^it cannot stay in place: Shape "asking" asks for the size of a cache/);
    const [good] = planOf(groupQuery(), inPlace).caches!;
    ok(good?.decision === 'quantize' && good.form === 'in_place' && good.notes.includes('in place'));
  });

  const kept: readonly [string, Model, RegExp, boolean][] = [
    ['heads of 24 channels', groupQuery({ size: 24 }), /heads have 24 channels, expected a multiple of 16/, false],
    ['positions of their own', groupQuery({ positions: true }), /positions for RoPE follow from "offsets"/, false],
    ['smooth softmax', groupQuery({ attributes: { smooth_softmax: int(1) } }), /has smooth_softmax/, false],
    ['another reader', groupQuery({ reader: true }), /the cache is also read by Abs "Abs"/, false],
    ['no cache', loadModel(zooPath('llama_nocache_dynamo18')), /^it keeps no cache$/, true],
  ];
  for (const [what, model, reason, expected] of kept) {
    it(`stay float with ${what}, and say so`, () => {
      // A layer to quantize, so that there is a plan.
      const test = new TestGraph(21, model.graph);
      test.output(test.op('MatMul', [test.input('x', ['n', 64]), test.weight('w', [64, 64])], { name: 'layer' }), [
        'n',
        64,
      ]);
      const [cache] = planOf(model, withSettings(findRecipe('w8a8'), ['kv.bits=4'])).caches!;
      ok(cache?.decision === 'keep');
      match(cache.reason, reason);
      equal(cache.expected, expected);
    });
  }

  it('that no known attention reads are named', () => {
    const test = new TestGraph(21);
    const rows = test.op('MatMul', [test.input('x', ['b', 's', 64]), test.weight('w', [64, 64])], { name: 'layer' });
    const past = ['key', 'value'].map((kind) => test.input(`past_key_values.0.${kind}`, ['b', 4, 't', 16]));
    const options = { domain: 'com.microsoft', name: 'sparse' };
    test.output(test.op('SparseAttention', [rows, rows, rows, ...past], options), ['b', 's', 64]);
    const [cache, ...more] = planOf(test.model, withSettings(findRecipe('w8a8'), ['kv.bits=4'])).caches!;
    equal(more.length, 0);
    deepEqual(cache, {
      ...{ site: 'past_key_values.0.key', decision: 'keep', expected: false },
      reason: 'SparseAttention "sparse" reads it, no attention that is known, and 1 more cache like it',
    });
  });

  it('make a plan even when every layer stays float; nothing to do is an error', () => {
    equal(planOf(groupQuery()).sites.length, 0);
    throws(() => planOf(groupQuery({ size: 24 })), /no linear layers/);
  });
});
