import { deepEqual, equal, ok, rejects, throws } from 'node:assert/strict';
import { join } from 'node:path';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import { tokenFeeds } from '../../graph-rewrite/calibrate/index.js';
import { tensorOf } from '../../graph-rewrite/ir/tensor.js';
import type { Model } from '../../graph-rewrite/ir/model.js';
import { printGraph } from '../../graph-rewrite/ir/print.js';
import { randomNumbers } from '../../graph-rewrite/lm/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { readFloats } from '../../graph-rewrite/ir/tensor.js';
import { readCorrespondence, writeCorrespondence } from '../../graph-rewrite/passes/correspondence.js';
import { batches } from '../../graph-rewrite/verify/compare.js';
import { compareModels, DistributionError, SignalError } from '../../graph-rewrite/verify/index.js';
import { layerPairs } from '../../graph-rewrite/verify/layers.js';
import { zooFolder } from '../helpers/files.js';
import { createOrtSession } from '../helpers/ort.js';

const close = (actual: number, expected: number, tolerance = 1e-9) =>
  ok(Math.abs(actual - expected) <= tolerance, `${actual}, expected ${expected}`);

describe('comparison metrics', () => {
  it('SQNR is signal over error power in dB, over all pieces', () => {
    const error = new SignalError();
    error.add(Float32Array.of(3, 4), Float32Array.of(3, 3.5), 2);
    error.add(Float32Array.of(0, 0), Float32Array.of(0, 0), 2);
    close(error.sqnrDb, 20);
    error.add(Float32Array.of(0, 0), Float32Array.of(0.5, 0), 2);
    close(error.sqnrDb, 10 * Math.log10(50));
  });

  it('SQNR follows the order of channels', () => {
    const error = new SignalError();
    error.add(Float32Array.of(1, 2, 3, 4, 5, 6), Float32Array.of(3, 1, 2, 6, 4, 5), 3, Int32Array.of(2, 0, 1));
    equal(error.sqnrDb, Infinity);
    error.add(Float32Array.of(1), Float32Array.of(NaN), 1);
    ok(Number.isNaN(error.sqnrDb));
  });

  it('KL divergence and top-1 agreement of known distributions', () => {
    const error = new DistributionError();
    const logits = (...p: number[]) => Float32Array.from(p, (each) => Math.log(each) + 7);
    error.add(logits(0.5, 0.25, 0.25), logits(0.25, 0.5, 0.25));
    close(error.klDivergence, 0.25 * Math.log(2), 1e-6);
    equal(error.top1Agreement, 0);
    error.add(logits(0.5, 0.25, 0.25), logits(0.5, 0.25, 0.25));
    close(error.klDivergence, 0.125 * Math.log(2), 1e-6);
    equal(error.top1Agreement, 0.5);
  });

  it('a probability of zero in the reference counts nothing', () => {
    const error = new DistributionError();
    error.add(Float32Array.of(1000, 0), Float32Array.of(1000, 0));
    equal(error.klDivergence, 0);
  });

  it('a score that is no number is no agreement', () => {
    for (const [reference, test] of [
      [NaN, 0],
      [0, NaN],
    ] as const) {
      const error = new DistributionError();
      error.add(Float32Array.of(reference, 0), Float32Array.of(test, 0));
      ok(Number.isNaN(error.klDivergence));
    }
  });
});

describe('compareModels', () => {
  const path = join(zooFolder, 'llama_nocache_dynamo18.onnx');
  const reference = loadModel(path);
  const random = randomNumbers(3);
  const ids = Int32Array.from({ length: 64 }, () => Math.floor(random() * 256));
  const feeds = tokenFeeds(reference, ids, { length: 16, count: 3, at: 'ids' });

  /** The model with weights that are `factor` times the original ones, and notes as rewriting leaves them. */
  function scaled(factor: number, roles: readonly string[], change?: (model: Model) => void): Model {
    const model = loadModel(path);
    for (const { node, name, N, y, weightValue, weight, role } of analyze(model).linears) {
      if (!roles.includes(role)) continue;
      const floats = readFloats(weight).map((each) => each * factor);
      weightValue!.initializer = tensorOf(floats, weight.dims);
      writeCorrespondence(node, [{ site: name, output: y.name, channels: N }]);
    }
    change?.(model);
    return model;
  }

  it('finds no difference between a model and itself', async () => {
    const result = await compareModels({
      reference,
      rewritten: scaled(1, ['down_proj']),
      feeds,
      createSession: createOrtSession,
    });
    equal(result.sqnrDb, Infinity);
    close(result.klDivergence, 0);
    deepEqual([result.top1Agreement, result.tokens, result.layers.length], [1, 48, 2]);
    ok(result.layers.every((layer) => layer.sqnrDb === Infinity));
  });

  it('measures every layer, in batches or at once, and leaves the models as they were', async () => {
    const rewritten = scaled(0.9, ['lm_head', 'q_proj']);
    const before = [printGraph(reference.graph), printGraph(rewritten.graph)];
    const options = { reference, rewritten, feeds, createSession: createOrtSession };
    const result = await compareModels(options);
    equal(result.layers.length, 3);
    close(result.layers[0]!.sqnrDb, 20, 0.01);
    ok(result.sqnrDb > 5 && result.sqnrDb < 30 && result.klDivergence > 0);
    deepEqual(await compareModels({ ...options, layerBytes: 1 }), result);
    deepEqual((await compareModels({ ...options, layerRuns: 0 })).layers, []);
    deepEqual([printGraph(reference.graph), printGraph(rewritten.graph)], before);
  });

  it('stops when told', async () => {
    const signal = AbortSignal.abort();
    await rejects(compareModels({ reference, rewritten: reference, feeds, createSession: createOrtSession, signal }), {
      code: 'interrupted',
    });
  });

  it('refuses a model with other outputs', async () => {
    const other = loadModel(join(zooFolder, 'llama_nocache_dynamo18.onnx'));
    other.graph.outputs.length = 0;
    await rejects(
      compareModels({ reference, rewritten: other, feeds, createSession: createOrtSession }),
      /the second model has no output "logits"/,
    );
  });

  it('refuses a model with other inputs', async () => {
    const other = loadModel(join(zooFolder, 'llama_kv_dynamo18.onnx'));
    await rejects(
      compareModels({ reference, rewritten: other, feeds, createSession: createOrtSession }),
      /compare: the second model has inputs input_ids, .*past_key_values.*, expected those of the first: input_ids/,
    );
  });

  it('cuts layers into batches by their bytes', () => {
    const pairs = layerPairs(reference, scaled(1, ['q_proj', 'down_proj']));
    equal(pairs.length, 4);
    deepEqual(
      batches(pairs, 16, Infinity).map((each) => each.length),
      [4],
    );
    deepEqual(
      batches(pairs, 16, 2 * 64 * 16 * 8).map((each) => each.length),
      [2, 2],
    );
  });
});

describe('correspondence of a product', () => {
  it('survives being written on a node, with and without orders', () => {
    const node = loadModel(join(zooFolder, 'llama_nocache_dynamo18.onnx')).graph.nodes[0]!;
    deepEqual(readCorrespondence(node), []);
    const parts = [
      { site: '/a,b', output: 'y', channels: 2, order: undefined },
      { site: 'c', output: 'z', channels: 3, order: Int32Array.of(2, 0, 1) },
    ];
    writeCorrespondence(node, parts);
    deepEqual(readCorrespondence(node), parts);
  });

  it('is refused when the metadata is something else', () => {
    const node = loadModel(join(zooFolder, 'llama_nocache_dynamo18.onnx')).graph.nodes[0]!;
    writeCorrespondence(node, [{ site: 'a', output: 'y', channels: 2 }]);
    for (const [text, reason] of [
      ['{', /is not JSON/],
      ['{}', /is no list, expected what the rewriter wrote/],
    ] as const) {
      for (const each of node.metadata.keys()) node.metadata.set(each, text);
      throws(() => readCorrespondence(node), reason);
    }
  });
});
