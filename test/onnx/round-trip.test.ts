import assert from 'node:assert/strict';
import { readFileSync, readdirSync } from 'node:fs';
import { createRequire } from 'node:module';
import { join } from 'node:path';
import protobuf from 'protobufjs';

import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { onnxSchema } from '../../graph-rewrite/onnx/schema.js';
import { saveModel, serializeModel } from '../../graph-rewrite/onnx/write.js';
import { printGraph } from '../../graph-rewrite/ir/print.js';
import { temporaryFolder, zooFolder } from '../helpers/files.js';

const zoo = readdirSync(zooFolder).filter((name) => name.endsWith('.onnx'));

describe('round trip of exported models', () => {
  const folder = temporaryFolder();

  for (const name of zoo) {
    it(`${name} comes out byte for byte when weights stay inside`, async () => {
      const source = join(zooFolder, name);
      await saveModel(loadModel(source), folder.path('out.onnx'), { externalThreshold: Infinity });
      assert.ok(readFileSync(folder.path('out.onnx')).equals(readFileSync(source)));
    });
  }

  it('keeps references to data files when asked to, also of models whose data is elsewhere', () => {
    const source = join(zooFolder, 'genai-graphs', 'cpu-int4-graph-only.onnx');
    const model = loadModel(source, { requireData: false });
    assert.ok(Buffer.from(serializeModel(model, { externalDir: model.dir })).equals(readFileSync(source)));
  });

  it('is the same model to another reader when weights move out', async () => {
    const source = join(zooFolder, 'llama_kv_ts17.onnx');
    const target = folder.path('out.onnx');
    await saveModel(loadModel(source), target);
    const [before, after] = [source, target].map((path) => readWithOnnxProto(path));
    const data = readFileSync(`${target}_data`);
    for (const [index, tensor] of before!.graph.initializer.entries()) {
      const moved = after!.graph.initializer[index]!;
      if (!moved.externalData?.length) continue;
      const entry = Object.fromEntries(moved.externalData.map(({ key, value }) => [key, value]));
      assert.equal(entry['location'], 'out.onnx_data');
      assert.equal(Number(entry['offset']) % 4096, 0);
      const bytes = data.subarray(Number(entry['offset']), Number(entry['offset']) + Number(entry['length']));
      assert.ok(bytes.equals(tensor.rawData!), tensor.name);
      Object.assign(tensor, { rawData: undefined, externalData: undefined, dataLocation: undefined });
      Object.assign(moved, { rawData: undefined, externalData: undefined, dataLocation: undefined });
    }
    assert.deepEqual(JSON.parse(JSON.stringify(after)), JSON.parse(JSON.stringify(before)));
  });

  it('moves weights out and in again without a change', async () => {
    const source = join(zooFolder, 'gpt2_kv_dynamo18.onnx');
    const original = loadModel(source);
    await saveModel(original, folder.path('a.onnx'));
    await saveModel(loadModel(folder.path('a.onnx')), folder.path('b.onnx'), { externalThreshold: Infinity });
    const back = loadModel(folder.path('b.onnx'));
    assert.equal(printGraph(back.graph), printGraph(original.graph));
    for (const value of original.graph.initializers()) {
      const bytes = Buffer.from(back.graph.value(value.name)!.initializer!.bytes());
      assert.ok(bytes.equals(Buffer.from(value.initializer!.bytes())), value.name);
    }
  });
});

describe('what the schema does not know', () => {
  const folder = temporaryFolder();

  it('survives at every level', async () => {
    // A schema from the future: every message has a further number, text and message.
    const future = protobuf.parse(
      onnxSchema.replaceAll(/^message (\w+) \{$/gm, (line) =>
        line.includes('Extra')
          ? line
          : `${line}\n  optional uint64 extra_number = 1001;\n  repeated string extra_text = 1002;\n  optional Extra extra = 1003;`,
      ) + 'message Extra { optional fixed32 a = 1; optional double b = 2; }',
    ).root;
    const type = future.lookupType('onnx.ModelProto');
    const extras = { extraNumber: '18446744073709551615', extraText: ['more', 'fields'], extra: { a: 7, b: 0.5 } };
    const entry = { key: 'k', value: 'v', ...extras };
    const dim = (value: number) => ({ dimValue: value, ...extras });
    const tensorType = { elemType: 1, shape: { dim: [dim(2), { dimParam: 'n', ...extras }], ...extras }, ...extras };
    const info = (name: string) => ({ name, type: { tensorType, ...extras }, ...extras });
    const tensor = (name: string) => ({ name, dims: [2], dataType: 99, rawData: Buffer.of(1, 2, 3), ...extras });
    const sparse = { values: tensor('sparse'), indices: tensor('at'), dims: [9], ...extras };
    const branch = {
      name: 'then',
      node: [{ input: ['x'], output: ['z'], opType: 'Identity' }],
      output: [info('z')],
      ...extras,
    };
    const attribute = [
      { name: 'then_branch', type: 5, g: branch, ...extras },
      { name: 'big', type: 2, i: '9007199254740993', ...extras },
      { name: 'bigs', type: 7, ints: ['-9223372036854775808', '1'], ...extras },
      { name: 'kind', type: 77, ...extras },
      { name: 'sparse', type: 11, sparseTensor: sparse, ...extras },
    ];
    const node = {
      input: ['x', '', 'w'],
      output: ['y'],
      name: 'n',
      opType: 'Custom',
      domain: 'd',
      overload: 'o',
      attribute,
    };
    const graph = {
      name: 'g',
      node: [{ ...node, docString: 'doc', metadataProps: [entry, entry], ...extras }],
      initializer: [tensor('w')],
      sparseInitializer: [sparse],
      input: [info('x')],
      output: [info('y')],
      valueInfo: [info('not_there')],
      ...extras,
    };
    const functions = [{ name: 'f', domain: 'd', overload: 'o', node: [node], attributeProto: attribute, ...extras }];
    const opsetImport = [{ domain: 'ai.onnx', version: 18, ...extras }];
    const training = [{ initialization: graph, algorithm: graph, ...extras }];
    const message = {
      irVersion: 12,
      graph,
      opsetImport,
      metadataProps: [entry],
      functions,
      trainingInfo: training,
      ...extras,
    };
    const original = type.encode(type.fromObject(message)).finish();
    const { writeFileSync } = await import('node:fs');
    writeFileSync(folder.path('in.onnx'), original);
    await saveModel(loadModel(folder.path('in.onnx')), folder.path('out.onnx'), { externalThreshold: 1 });
    const plain = (bytes: Uint8Array) => type.toObject(type.decode(bytes), { longs: String, bytes: String });
    assert.deepEqual(plain(readFileSync(folder.path('out.onnx'))), plain(original));
  });
});

interface ForeignTensor {
  name: string;
  rawData?: Buffer;
  externalData?: { key: string; value: string }[];
}

function readWithOnnxProto(path: string): { graph: { initializer: ForeignTensor[] } } {
  const { onnx } = createRequire(import.meta.url)('onnx-proto') as {
    onnx: { ModelProto: { decode(bytes: Uint8Array): { graph: { initializer: ForeignTensor[] } } } };
  };
  return onnx.ModelProto.decode(readFileSync(path));
}
