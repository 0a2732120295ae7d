import { deepEqual, equal, ok, rejects, throws } from 'node:assert/strict';
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { Tensor } from 'onnxruntime-common';
import { analyze } from '../../graph-rewrite/analyze/index.js';
import {
  ascendingOrder,
  calibrate,
  channelRank,
  loadStats,
  recordedFeeds,
  saveStats,
  textFeeds,
  tokenFeeds,
} from '../../graph-rewrite/calibrate/index.js';
import { printGraph } from '../../graph-rewrite/ir/print.js';
import { Model } from '../../graph-rewrite/ir/model.js';
import { randomNumbers, textFacts, writeNpz } from '../../graph-rewrite/lm/index.js';
import type { Feeds, NpyArray, TextTokenizer } from '../../graph-rewrite/lm/index.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { temporaryFolder, zooFolder } from '../helpers/files.js';
import { createOrtSession } from '../helpers/ort.js';

/** x [batch, tokens, 3] in `dtype` → Identity → y, and y as what a linear layer multiplies. */
function identityModel(opset: number, dtype: 'float32' | 'float16' = 'float32') {
  const model = new Model({ irVersion: 8, opsetImports: [['', opset]] });
  const x = model.graph.addInput('x', dtype, ['batch', 'tokens', 3]);
  const node = model.graph.addNode({ opType: 'Identity', inputs: [x], outputs: ['y'] });
  const input = node.output(0)!;
  input.dtype = dtype;
  input.shape = ['batch', 'tokens', 3];
  model.graph.addOutput(input);
  return { model, analysis: { inputs: [{ input, K: 3, linears: [{ quantizable: true }] }] } };
}

const feed = (values: number[], dims: number[]): Feeds => ({
  x: new Tensor('float32', Float32Array.from(values), dims),
});
const runs = [feed([1, -2, 0, 3, 4, 0], [1, 2, 3]), feed([-5, 1, 0], [1, 1, 3])];

describe('calibrate', () => {
  for (const opset of [11, 13, 17, 18, 23]) {
    it(`sums over all rows and runs at opset ${opset}`, async () => {
      const { model, analysis } = identityModel(opset);
      const stats = (await calibrate({ model, analysis, feeds: runs, createSession: createOrtSession })).get('y')!;
      equal(stats.rows, 3);
      equal(stats.samples, undefined);
      deepEqual([...stats.meanSquare], [35 / 3, 21 / 3, 0]);
      deepEqual([...stats.min], [-5, -2, 0]);
      deepEqual([...stats.max], [3, 4, 0]);
      deepEqual([...stats.absMax], [5, 4, 0]);
      deepEqual([...stats.absMean], [5, 3, 0]);
      deepEqual([...ascendingOrder(channelRank(stats, 'mean-square'))], [2, 1, 0]);
    });
  }

  it('hands out sample rows if asked: of each run the last, and every 256th before', async () => {
    for (const opset of [9, 18]) {
      const { model, analysis } = identityModel(opset);
      const long = feed(
        Array.from({ length: 3 * 300 }, (_, i) => i),
        [1, 300, 3],
      );
      const options = { model, analysis, feeds: [...runs, long], createSession: createOrtSession, samples: true };
      const { samples } = (await calibrate(options)).get('y')!;
      const expected = [3, 4, 0, -5, 1, 0, 897, 898, 899];
      deepEqual([...samples!], opset < 10 ? expected : [...expected, 129, 130, 131]);
    }
  });

  it('sums float16 activations in float32', async () => {
    const { model, analysis } = identityModel(17, 'float16');
    const bits = Uint16Array.of(0x5c00, 0, 0x3c00); // 256, 0, 1; 256² is beyond float16
    const feeds = [{ x: new Tensor('float16', bits, [1, 1, 3]) }];
    const stats = (await calibrate({ model, analysis, feeds, createSession: createOrtSession })).get('y')!;
    deepEqual([...stats.meanSquare], [65536, 0, 1]);
  });

  it('names the channel and the sample that are not finite', async () => {
    const { model, analysis } = identityModel(18);
    const feeds = [runs[1]!, feed([1, NaN, 1], [1, 1, 3])];
    const work = calibrate({ model, analysis, feeds, createSession: createOrtSession });
    await rejects(work, /^LowbitError: y: channel 1 is not finite on calibration sample 1/);
  });

  it('reports progress, stops when told, and leaves the model as it was', async () => {
    const { model, analysis } = identityModel(18);
    const before = printGraph(model.graph);
    const abort = new AbortController();
    const seen: number[] = [];
    const onProgress = ({ done, total }: { done: number; total: number }) => {
      seen.push(done, total);
      abort.abort();
    };
    const options = { model, analysis, createSession: createOrtSession };
    await rejects(calibrate({ ...options, feeds: runs, total: 2, onProgress, signal: abort.signal }), {
      code: 'interrupted',
    });
    deepEqual(seen, [1, 2]);
    equal(printGraph(model.graph), before);
    await rejects(calibrate({ ...options, feeds: [] }), /there are no samples/);
  });

  for (const file of readdirSync(zooFolder).filter((name) => name.endsWith('.onnx'))) {
    it(`runs ${file} on tokens`, async () => {
      const model = loadModel(join(zooFolder, file));
      const before = printGraph(model.graph);
      const analysis = analyze(model);
      const random = randomNumbers(1);
      const { vocabulary } = textFacts(model);
      ok(vocabulary !== undefined);
      const ids = Int32Array.from({ length: 100 }, () => Math.floor(random() * vocabulary));
      const feeds = tokenFeeds(model, ids, { length: 20, count: 3, at: 'ids' });
      const stats = await calibrate({ model, analysis, feeds, createSession: createOrtSession });
      const expected = analysis.inputs.filter(({ linears }) => linears.some((site) => site.quantizable));
      deepEqual(
        [...stats.keys()],
        expected.map(({ input }) => input.name),
      );
      for (const { input, K } of expected) {
        const { channels, rows, absMax } = stats.get(input.name)!;
        deepEqual([channels, rows], [K, 60]);
        ok(absMax.some((value) => value > 0));
      }
      equal(printGraph(model.graph), before);
    });
  }
});

describe('calibration feeds', () => {
  const model = loadModel(join(zooFolder, 'bert_ts17.onnx'));
  const ids = (shape: number[]): NpyArray => ({
    dtype: 'int64',
    shape,
    data: new BigInt64Array(shape.reduce((all, each) => all * each, 1)).fill(1n),
  });
  const save = (path: string, arrays: Record<string, NpyArray>) =>
    writeFileSync(path, writeNpz(new Map(Object.entries(arrays))));

  it('cut ids into windows spread over the text', () => {
    const feeds = tokenFeeds(
      model,
      Int32Array.from({ length: 100 }, (_, i) => i),
      { length: 10, count: 2, at: 'ids' },
    );
    equal(feeds.count, 2);
    deepEqual(
      [...feeds].map((each) => Number((each['input_ids']!.data as BigInt64Array)[0])),
      [0, 50],
    );
  });

  it('refuse short texts and foreign ids with their numbers', () => {
    throws(
      () => tokenFeeds(model, new Int32Array(9), { length: 10, at: 'x.txt' }),
      /x\.txt: has 9 tokens, expected at least 10/,
    );
    throws(() => tokenFeeds(model, Int32Array.of(0, 256), { length: 2, at: 'x' }), /token id 256, .* has 256 entries/);
  });

  const folder = temporaryFolder();

  it('use no more of a text than they need', () => {
    const path = folder.path('text.txt');
    writeFileSync(path, 'é'.repeat(2 ** 21 + 5));
    let length = 0;
    const tokenizer: TextTokenizer = {
      ...{ path: 'letters', size: 1, stopIds: [], decode: () => '' },
      encode: (text) => {
        length = text.length;
        ok(!text.includes('\ufffd'));
        return new Array<number>(text.length).fill(0);
      },
    };
    equal(textFeeds(model, path, tokenizer, { length: 8 }).count, 64);
    equal(length, 2 ** 21);
    throws(
      () => textFeeds(model, folder.path('absent.txt'), tokenizer),
      /absent\.txt: cannot be read \(ENOENT.*\), expected a text file/,
    );
  });

  it('take samples along the first axis of one file', () => {
    const path = folder.path('feeds.npz');
    save(path, { input_ids: ids([3, 5]), attention_mask: ids([3, 5]) });
    const feeds = recordedFeeds(model, [path]);
    equal(feeds.count, 3);
    deepEqual(
      [...feeds].map((each) => each['input_ids']!.dims),
      [
        [1, 5],
        [1, 5],
        [1, 5],
      ],
    );
    deepEqual(
      [...recordedFeeds(model, [path, path])].map((each) => each['attention_mask']!.dims),
      [
        [3, 5],
        [3, 5],
      ],
    );
    save(path, { input_ids: ids([3, 5]) });
    throws(() => recordedFeeds(model, [path]), /holds input_ids, expected an array for every input: input_ids, atten/);
    save(path, { input_ids: ids([3, 5]), attention_mask: ids([2, 5]) });
    throws(() => recordedFeeds(model, [path]), /expected arrays with one number of samples/);
    save(path, { input_ids: ids([3, 5]), attention_mask: { dtype: 'int32', shape: [3], data: new Int32Array(3) } });
    throws(() => recordedFeeds(model, [path]), /"attention_mask" is int32, the model takes int64/);
    save(path, { input_ids: ids([3, 5]), attention_mask: ids([3, 5]), extra: ids([3]) });
    throws(() => recordedFeeds(model, [path]), /holds "extra", expected only the inputs/);
  });
});

describe('stored statistics', () => {
  const folder = temporaryFolder();

  it('come back as they were', async () => {
    const { model, analysis } = identityModel(18);
    const stats = await calibrate({ model, analysis, feeds: runs, createSession: createOrtSession, samples: true });
    const path = folder.path('stats.npz');
    saveStats(path, stats);
    deepEqual(loadStats(path), stats);
    writeFileSync(path, writeNpz(new Map([['y/rows', { dtype: 'float64', shape: [], data: Float64Array.of(1) }]])));
    throws(() => loadStats(path), /lacks a part of "y", expected rows, mean_square/);
    writeFileSync(path, writeNpz(new Map()));
    throws(() => loadStats(path), /holds no statistics/);
  });
});
