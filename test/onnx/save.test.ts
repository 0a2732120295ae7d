import assert from 'node:assert/strict';
import { spawnSync } from 'node:child_process';
import { copyFileSync, mkdirSync, readFileSync, readdirSync, statSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';

import type { ErrorCode } from '../../ops/common/errors.js';
import { LowbitError } from '../../ops/common/errors.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import { lazyTensor, readFloats } from '../../graph-rewrite/ir/tensor.js';
import { temporaryFolder, repositoryRoot, zooFolder } from '../helpers/files.js';
import { externalTensor, linearModel, writeModel } from '../helpers/models.js';

describe('saving', () => {
  const folder = temporaryFolder();
  const out = () => folder.path('out.onnx');

  const failure = (code: ErrorCode, message: RegExp) => (error: unknown) =>
    error instanceof LowbitError && error.code === code && message.test(error.message);

  it('reports progress and sizes, and aligns tensors', async () => {
    const model = linearModel();
    const done: number[] = [];
    const progress = ({ done: bytes, total }: { done: number; total: number }) => void done.push(bytes / total);
    const result = await saveModel(model, out(), { externalThreshold: 1, progress });
    assert.deepEqual(result.files, [out(), `${out()}_data`]);
    assert.equal(result.bytes, statSync(out()).size + statSync(`${out()}_data`).size);
    assert.equal(statSync(`${out()}_data`).size, 4096 + 12);
    assert.equal(done.at(-1), 1);
    const saved = loadModel(out());
    assert.deepEqual([...readFloats(saved.graph.value('b')!.initializer!)], [1, 2, 3]);
  });

  it('writes data that several constants share once', async () => {
    const model = linearModel();
    const { graph } = model;
    const b = graph.value('b')!;
    b.uses[0]!.node.setInput(b.uses[0]!.index, graph.addInitializer('again', b.initializer!));
    graph.addNode({ opType: 'Identity', inputs: [b], outputs: ['kept'] });
    await saveModel(model, out(), { externalThreshold: 1, force: true });
    assert.equal(statSync(`${out()}_data`).size, 4096 + 12);
    const read = loadModel(out());
    assert.deepEqual([...readFloats(read.graph.value('again')!.initializer!)], [1, 2, 3]);
    await saveModel(read, folder.path('copy.onnx'), { externalThreshold: 1 });
    assert.equal(statSync(`${folder.path('copy.onnx')}_data`).size, 4096 + 12);
  });

  it('refuses outputs that exist, unless forced', async () => {
    writeFileSync(`${out()}_data`, 'precious');
    await assert.rejects(
      saveModel(linearModel(), out(), { externalThreshold: 1 }),
      failure('usage', /out.onnx_data: exists already/),
    );
    assert.equal(readFileSync(`${out()}_data`, 'utf8'), 'precious');
    await saveModel(linearModel(), out(), { externalThreshold: 1, force: true });
    loadModel(out());
  });

  it('never writes to a file of the input', async () => {
    copyFileSync(join(zooFolder, 'opt_kv_ts17.onnx'), folder.path('in.onnx'));
    const model = loadModel(folder.path('in.onnx'));
    await assert.rejects(
      saveModel(model, folder.path('in.onnx'), { force: true }),
      failure('usage', /is a file of the input model/),
    );
    writeFileSync(`${out()}_data`, new Uint8Array(4096));
    const reader = loadModel(
      writeModel(folder.path('ext.onnx'), {
        name: 'g',
        initializer: [externalTensor('w', 1024, { location: 'out.onnx_data' })],
      }),
    );
    await assert.rejects(
      saveModel(reader, out(), { force: true }),
      failure('usage', /out.onnx_data: is a file of the input model/),
    );
  });

  it('leaves nothing behind when interrupted in the middle', async () => {
    const controller = new AbortController();
    const model = linearModel();
    const w = model.graph.value('w')!;
    w.initializer = lazyTensor('float32', [4, 3], () => {
      controller.abort();
      return new Uint8Array(48);
    });
    const saving = saveModel(model, out(), { externalThreshold: 1, signal: controller.signal });
    await assert.rejects(saving, failure('interrupted', /writing was interrupted/));
    assert.deepEqual(readdirSync(folder.path()), []);
  });

  it('leaves nothing behind when a tensor cannot be produced', async () => {
    const model = linearModel();
    model.graph.value('b')!.initializer = lazyTensor('float32', [3], () => {
      throw new Error('no data');
    });
    await assert.rejects(saveModel(model, out(), { externalThreshold: 1 }), /no data/);
    assert.deepEqual(readdirSync(folder.path()), []);
  });

  it('says why it cannot write', async () => {
    await assert.rejects(
      saveModel(linearModel(), folder.path('none', 'out.onnx')),
      failure('input', /the folder .* does not exist/),
    );
    writeFileSync(folder.path('file'), '');
    await assert.rejects(
      saveModel(linearModel(), folder.path('file', 'out.onnx')),
      failure('input', /is not a folder/),
    );
    mkdirSync(folder.path('folder'));
    await assert.rejects(saveModel(linearModel(), folder.path('folder')), failure('usage', /is a folder/));
  });

  it('reports a file system that takes no more, and cleans up', function () {
    if (process.platform === 'win32') return this.skip();
    const script = `
      import { loadModel } from './dist/graph-rewrite/onnx/read.js';
      import { saveModel } from './dist/graph-rewrite/onnx/write.js';
      const model = loadModel('models/zoo/llama_kv_ts17.onnx');
      await saveModel(model, process.argv[1]).catch((error) => console.log(error.code, error.message));`;
    const limited = `trap '' XFSZ; ulimit -f 64; exec "$0" --input-type=module -e "$1" "$2"`;
    const result = spawnSync('bash', ['-c', limited, process.execPath, script, out()], {
      cwd: repositoryRoot,
      encoding: 'utf8',
    });
    assert.match(result.stdout, /^input .*larger than the limit here/);
    assert.deepEqual(readdirSync(folder.path()), []);
  });
});
