/**
 * The host on a GPU: device tensors, caches in place, CUDA graphs, provider options and errors. Prints a line per check.
 * usage: node dist/test/gpu/host.js [--provider cpu] [--only TEXT]     (cpu: what can be checked there, to try the program)
 */
import assert from 'node:assert/strict';
import { parseArgs } from 'node:util';
import { fromFloat16Array } from '../../ops/common/float16.js';
import { findRecipe, textFacts, withSettings } from '../../graph-rewrite/index.js';
import { serializeModel } from '../../graph-rewrite/onnx/write.js';
import { decoderRun, disposeRun, runOnce, type Run } from '../../bench/gpu/decoder-feeds.js';
import { openOnDevice, Placer, type Provider } from '../../bench/gpu/device.js';
import { buildStack } from '../../models/layer-stack.js';
import { presets } from '../../models/llama-config.js';
import { opModel } from '../../models/op-model.js';
import { Generator, InferenceSession, nativeInfo, Tensor } from '../../native/js/index.js';
import { feedForwardChannels, rewrittenFeedForward } from '../helpers/feed-forward.js';
import { longModel, unaryModel } from '../helpers/tiny-models.js';

const { values } = parseArgs({
  options: { provider: { type: 'string', default: 'cuda' }, only: { type: 'string', default: '' } },
});
const provider = values.provider as Provider;
const onGpu = provider === 'cuda';
let failed = 0;

/** Runs a check and says what came of it; `detail` is a number worth reading. */
async function check(name: string, run: () => Promise<unknown>, needsGpu = true): Promise<void> {
  if (!name.includes(values.only)) return;
  if (needsGpu && !onGpu) return console.log(`skip ${name}: needs a GPU`);
  const begin = performance.now();
  try {
    const detail = await run();
    console.log(
      `ok   ${name} (${((performance.now() - begin) / 1000).toFixed(1)} s)${typeof detail === 'string' ? `: ${detail}` : ''}`,
    );
  } catch (error) {
    failed++;
    console.log(`FAIL ${name}: ${error instanceof Error ? error.message : String(error)}`);
  }
}

const cuda = { name: 'cuda' as const };
const onCuda = { executionProviders: [cuda] };
const staying = { ...onCuda, preferredOutputLocation: 'gpu-buffer' as const };
const shape = {
  ...presets['7b']!,
  hidden: 512,
  mlp: 1024,
  layers: 2,
  heads: 4,
  kvHeads: 4,
  vocab: 1000,
  maxPositions: 256,
};

function rounded(recipe: string, settings: readonly string[]) {
  return withSettings(findRecipe(recipe), ['weight.rounding=rtn', ...settings]);
}

/** A small decoder in float16, rewritten or not. */
function decoder(recipe: string | undefined, settings: readonly string[] = []): Uint8Array {
  return serializeModel(buildStack(shape, 'float16', recipe === undefined ? undefined : rounded(recipe, settings)));
}

/** The numbers of a tensor, which stays where it is: `getData()` would make it one of the host. */
async function floats(session: InferenceSession, tensor: Tensor): Promise<Float32Array> {
  const { type, data } = tensor.location === 'cpu' ? tensor : await session.fromDevice(tensor);
  if (type !== 'float16') return data as Float32Array;
  const { buffer, byteOffset, length } = data as Uint16Array;
  return fromFloat16Array(new Uint16Array(buffer, byteOffset, length));
}

/** Largest difference by largest magnitude. */
function distance(a: Float32Array, b: Float32Array): number {
  assert.equal(a.length, b.length);
  let [difference, magnitude] = [0, 0];
  a.forEach((value, i) => {
    difference = Math.max(difference, Math.abs(value - b[i]!));
    magnitude = Math.max(magnitude, Math.abs(b[i]!));
  });
  if (!Number.isFinite(difference)) return Infinity;
  return magnitude === 0 ? difference : difference / magnitude;
}

await check('the machine is described', async () => {
  const { cuda: facts, operatorLibrary, runtime } = nativeInfo();
  assert.equal(facts.error, '');
  assert.deepEqual(facts.missingProviderFiles, []);
  assert.ok(operatorLibrary.description.cuda.built, 'the operator library has no CUDA kernels');
  const [device] = facts.devices;
  const archs = operatorLibrary.description.cuda.archs.join(' ');
  return `ONNX Runtime ${runtime.version}, ${device!.name} ${device!.capability}, ${(device!.memoryBytes / 2 ** 30).toFixed(0)} GiB, kernels for ${archs}`;
});

await check('toDevice and getData give back the same bytes, for every type', async () => {
  const session = await InferenceSession.create(unaryModel('Neg', 'float32'), staying);
  const source = Uint8Array.from({ length: 480 }, (_, i) => (i * 37) & 255);
  for (const [type, array] of [
    ['float32', Float32Array],
    ['float16', Uint16Array],
    ['int8', Int8Array],
    ['uint8', Uint8Array],
    ['int32', Int32Array],
    ['int64', BigInt64Array],
    ['float64', Float64Array],
    ['bool', Uint8Array],
  ] as const) {
    const data = new array(source.slice().buffer);
    const tensor = await session.toDevice(new Tensor(type, data as never, [data.length]));
    assert.equal(tensor.location, 'gpu-buffer');
    const back = (await tensor.getData()) as Uint8Array;
    assert.deepEqual(new Uint8Array(back.buffer, back.byteOffset, back.byteLength), source, type);
    tensor.dispose();
  }
  await session.release();
});

await check('an output stays on the device and feeds the next run; a given one is filled in place', async () => {
  const session = await InferenceSession.create(unaryModel('Neg', 'float32'), staying);
  const count = 100_000;
  const x = Float32Array.from({ length: count }, (_, i) => i);
  const first = (await session.run({ x: new Tensor('float32', x, [count]) }))['y']!;
  assert.equal(first.location, 'gpu-buffer');
  const target = await session.toDevice({ type: 'float32', dims: [count] });
  const second = await session.run({ x: first }, { y: target });
  assert.equal(second['y'], target);
  assert.deepEqual(await floats(session, target), x);
  const onCpu = new Tensor('float32', new Float32Array(count), [count]);
  await session.run({ x: target }, { y: onCpu });
  assert.equal((onCpu.data as Float32Array)[7], -7);
  await session.run({ x: target }, { y: target });
  assert.equal((await floats(session, target))[7], -7);
  assert.equal(target.location, 'gpu-buffer');
  await session.release();
});

/** Logits of one decoding step after `past` tokens whose cache is zero, on any provider. */
async function stepLogits(model: Uint8Array, past: number, where: Provider): Promise<Float32Array> {
  const session = await openOnDevice(model, { provider: where });
  const run = await zeroRun(session, past, where);
  const results = await session.run(run.feeds, run.fetches);
  const logits = await floats(session, results['logits']!);
  await session.release();
  return logits;
}

/** A step with its cache in place, the cache zeros. */
async function zeroRun(session: InferenceSession, past: number, where: Provider): Promise<Run> {
  const run = await decoderRun(session, new Placer(session, where), { batch: 3, tokens: 1, past, cache: 'in place' });
  if (where === 'cpu') return run;
  for (const [name, tensor] of Object.entries(run.feeds)) {
    if (!name.startsWith('past_key_values')) continue;
    const count = tensor.dims.reduce((product, dim) => product * dim, 1);
    const zeros = tensor.type === 'float16' ? new Uint16Array(count) : new Uint8Array(count);
    await session.toDevice(new Tensor(tensor.type, zeros as never, tensor.dims), tensor);
  }
  return run;
}

const recipes: readonly (readonly [name: string, recipe: string | undefined, settings?: readonly string[]])[] = [
  ['float16', undefined],
  ['atom-w4a4', 'atom-w4a4'],
  ['w8a8', 'w8a8'],
  ['w4a16', 'w4a16'],
  ['zeroquant-fp-w4a8', 'zeroquant-fp-w4a8'],
  ['atom-w4a4kv4 in place', 'atom-w4a4kv4', ['kv.form=in_place']],
];
const floatLogits = stepLogits(decoder(undefined), 40, 'cpu');
for (const [name, recipe, settings] of recipes) {
  const model = decoder(recipe, settings);
  await check(
    `${name}: a step with the cache in place gives the CPU's logits`,
    async () => {
      const [there, here] = [await stepLogits(model, 40, provider), await stepLogits(model, 40, 'cpu')];
      const [apart, cost] = [distance(there, here), distance(here, await floatLogits)];
      // Where activations become codes, a last bit of float16 flips some, whose change flips more: less than codes cost by themselves.
      const flips = recipe !== undefined && findRecipe(recipe).activation.format !== 'none';
      const most = flips ? cost : 0.005;
      assert.ok(apart < most, `logits are ${apart} apart, expected less than ${most}`);
      return `${apart.toExponential(1)} apart, ${cost.toExponential(1)} from float16`;
    },
    false,
  );
  await check(`${name}: a CUDA graph replays what plain runs compute, with other tokens too`, async () => {
    const session = await openOnDevice(model, { provider, graph: true });
    const run = await zeroRun(session, 40, provider);
    const logits = run.fetches['logits']!;
    for (let token = 1n; token < 4n; token++) {
      await session.toDevice(
        new Tensor('int64', BigInt64Array.of(token, token + 1n, token + 2n), [3, 1]),
        run.feeds['input_ids'],
      );
      await runOnce(session, run);
      const replayed = await floats(session, logits);
      await runOnce(session, run, { gpu_graph_id: '-1' });
      const apart = distance(replayed, await floats(session, logits));
      assert.ok(apart < 1e-3, `token ${token}: logits are ${apart} apart`);
    }
    await assert.rejects(
      session.run({ ...run.feeds, input_ids: new Tensor('int64', BigInt64Array.of(1n, 2n, 3n), [3, 1]) }, run.fetches),
      /not on the device/,
    );
    disposeRun(run);
    await session.release();
  });
}

for (const [name, recipe, settings] of [
  ['float16', undefined, []],
  ['atom-w4a4kv4 in place', 'atom-w4a4kv4', ['kv.form=in_place']],
] as const) {
  await check(`${name}: a Generator gives the same texts with a CUDA graph as without`, async () => {
    const model = decoder(recipe, settings);
    const facts = textFacts(buildStack(shape, 'float16', recipe && rounded(recipe, settings)));
    const texts = [];
    for (const options of [{ device: 'cuda', cudaGraph: true }, { device: 'cuda' }, {}] as const) {
      const generator = await Generator.create(model, { ...options, facts });
      const { texts: made } = await generator.generate({
        prompts: [
          [1, 2, 3],
          [4, 5, 6, 7, 8],
        ],
        maxNewTokens: 12,
      });
      texts.push(made.map(({ ids }) => ids));
      await generator.release();
    }
    const [replayed, plain, onCpu] = texts as [number[][], number[][], number[][]];
    assert.deepEqual(replayed, plain);
    const equal = plain.flat().filter((id, i) => id === onCpu.flat()[i]).length;
    return `${equal} of ${plain.flat().length} tokens are the CPU's`;
  });
}

for (const recipe of ['w8a8', 'w4a16', 'zeroquant-fp-w8a8']) {
  await check(`bfloat16: ${recipe} computes what float32 does on the CPU, but for rounding`, async () => {
    const rows = 70;
    const x = Float32Array.from({ length: rows * feedForwardChannels }, (_, i) => Math.sin(i * i));
    const results: Float32Array[] = [];
    for (const type of ['bfloat16', 'float32'] as const) {
      const model = serializeModel(rewrittenFeedForward(type, recipe));
      const session = await InferenceSession.create(model, type === 'bfloat16' ? onCuda : {});
      const { y } = await session.run({ x: new Tensor('float32', x, [rows, feedForwardChannels]) });
      results.push(y!.data as Float32Array);
      await session.release();
    }
    const apart = distance(results[0]!, results[1]!);
    // 2^-8 of rounding at every tensor, and codes that it tips over
    assert.ok(apart < 0.05, `${apart} apart`);
    return `${apart.toExponential(1)} apart`;
  });
}

await check('CUDA graphs of two shapes live side by side', async () => {
  const session = await openOnDevice(unaryModel('Neg', 'float32'), { provider, graph: true });
  const pairs = [];
  for (const count of [4, 6]) {
    const x = await session.toDevice(new Tensor('float32', new Float32Array(count).fill(count), [count]));
    pairs.push({ count, x, y: await session.toDevice({ type: 'float32', dims: [count] }) });
  }
  for (let turn = 0; turn < 3; turn++) {
    for (const { count, x, y } of pairs) {
      await session.toDevice(new Tensor('float32', new Float32Array(count).fill(turn + count), [count]), x);
      await session.run({ x }, { y }, { extra: { gpu_graph_id: String(count) } });
      assert.deepEqual(await floats(session, y), new Float32Array(count).fill(-turn - count));
    }
  }
  await session.release();
});

await check('TF32 only where it is asked for', async () => {
  const n = 512;
  const port = (name: string) => ({ name, dtype: 'float32' as const, dims: ['n', n] });
  const w = Float32Array.from({ length: n * n }, (_, i) => Math.sin(i * 12.9898));
  const model = opModel({
    ...{ op: 'MatMul', domain: '', attributes: {}, outputs: [port('y')] },
    inputs: [port('x'), { name: 'w', dtype: 'float32', dims: [n, n], constant: w }],
  });
  const x = new Tensor('float32', w.slice(), [n, n]);
  const run = async (useTf32: boolean) => {
    const session = await InferenceSession.create(model, { executionProviders: [{ ...cuda, useTf32 }] });
    const { y } = await session.run({ x });
    await session.release();
    return y!.data as Float32Array;
  };
  const onCpu = await InferenceSession.create(model);
  const exact = (await onCpu.run({ x }))['y']!.data as Float32Array;
  const [off, on] = [distance(await run(false), exact), distance(await run(true), exact)];
  assert.ok(off < 1e-4 && on > 1e-3, `off ${off}, on ${on}`);
  return `${off.toExponential(1)} and ${on.toExponential(1)} from the CPU's`;
});

await check('a memory limit is kept, and its error says what to do', async () => {
  const session = await InferenceSession.create(unaryModel('Neg', 'float32'), {
    executionProviders: [{ ...cuda, gpuMemLimit: 64 * 2 ** 20 }],
    preferredOutputLocation: 'gpu-buffer',
  });
  const small = await session.toDevice({ type: 'float32', dims: [2 ** 20] });
  small.dispose();
  await assert.rejects(session.toDevice({ type: 'float32', dims: [2 ** 26] }), (error: Error) => {
    assert.match(error.message, /memory/i);
    return true;
  });
  await session.release();
});

await check('a device that does not exist is named, with those that do', async () => {
  await assert.rejects(
    InferenceSession.create(unaryModel('Neg', 'float32'), { executionProviders: [{ ...cuda, deviceId: 7 }] }),
    /device: no device 7, expected 0 … 0/,
  );
  await assert.rejects(
    InferenceSession.create(unaryModel('Neg', 'float32'), { executionProviders: [{ ...cuda, extra: { no_such: 1 } }] }),
    /no_such/,
  );
});

await check(
  'a run is stopped by its signal, and release waits for what runs',
  async () => {
    // So many nodes that they cannot all have been launched when the signal comes: a run stops between launches.
    const session = await InferenceSession.create(
      longModel(onGpu ? 2048 : 256, onGpu ? 6000 : 1000),
      onGpu ? onCuda : {},
    );
    const size = onGpu ? 2048 : 256;
    const x = new Tensor('float32', new Float32Array(size * size), [size, size]);
    const controller = new AbortController();
    const stopped = session.run({ x, w: x }, { signal: controller.signal });
    setTimeout(() => controller.abort(), 20);
    await assert.rejects(stopped, { name: 'AbortError' });
    const last = session.run({ x, w: x });
    const released = session.release();
    await last;
    await released;
  },
  false,
);

await check('device memory goes back when tensors are disposed', async () => {
  const session = await InferenceSession.create(unaryModel('Neg', 'float32'), {
    executionProviders: [{ ...cuda, gpuMemLimit: 2 ** 30 }],
    preferredOutputLocation: 'gpu-buffer',
  });
  for (let i = 0; i < 20; i++) {
    const x = await session.toDevice({ type: 'float32', dims: [2 ** 26] });
    x.dispose();
  }
  await session.release();
});

console.log(failed === 0 ? 'all checks passed' : `${failed} checks failed`);
process.exitCode = failed === 0 ? 0 : 1;
