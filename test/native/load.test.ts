import assert from 'node:assert/strict';
import type { InferenceSession as OrtSession } from 'onnxruntime-common';
import * as host from '../../native/js/index.js';
import type { InferenceSession } from '../../native/js/index.js';
import { Tensor } from '../../native/js/index.js';
import { environmentVariables } from '../../native/js/env.js';
import { nativePaths } from '../../native/js/load.js';
import { runNode } from '../helpers/child.js';

const program = (text: string) => ['--input-type=module', '--eval', text];
const load = program(`
  import { nativeInfo } from 'ort-lowbit';
  try { nativeInfo(); } catch (error) { console.log(error.name, error.code, error.message); }
`);

describe('native/load', () => {
  const { operatorLibrary } = nativePaths();

  const broken: [name: string, env: Record<string, string>, message: RegExp][] = [
    [
      'no runtime',
      { ORT_LOWBIT_RUNTIME: '/nope/libonnxruntime.so.1' },
      /^LowbitError input \/nope\/libonnxruntime\.so\.1: no such file, expected onnxruntime-node's shared library\. Reinstall/,
    ],
    [
      'no native parts',
      { ORT_LOWBIT_NATIVE_DIR: '/nope' },
      /^LowbitError input \/nope\/ort_lowbit_host\.node: no such file, .* Run npm run build:native\.$/m,
    ],
    [
      'a runtime that is another library',
      { ORT_LOWBIT_RUNTIME: operatorLibrary },
      /libort_lowbit\.so: has no symbol OrtGetApiBase/,
    ],
    [
      'a runtime that is no library',
      { ORT_LOWBIT_RUNTIME: process.execPath },
      /: cannot be loaded \(.*\), expected onnxruntime-node's shared library/,
    ],
    [
      'kernels that nobody has',
      { ORT_LOWBIT_FORCE_KERNEL: 'scalar,avx1024' },
      /^LowbitError input ORT_LOWBIT_FORCE_KERNEL: names avx1024, expected kernels such as .*__.*, or all of .*\bscalar\b/,
    ],
  ];
  for (const [name, env, message] of broken) {
    it(`says so: ${name}`, async () => {
      const { code, stdout, stderr } = await runNode(load, env);
      assert.equal(code, 0, stderr);
      assert.match(stdout, message);
    });
  }

  it('lets the environment choose a kernel', async () => {
    for (const name of ['scalar', 'quantize_f32_s8__scalar,avx2']) {
      const { stdout, stderr } = await runNode(load, { ORT_LOWBIT_FORCE_KERNEL: name });
      assert.equal(stdout, '', stderr);
    }
  });

  it('reads at most five environment variables, all of them ours', () => {
    assert.ok(environmentVariables.length <= 5);
    for (const { name, about } of environmentVariables) assert.ok(name.startsWith('ORT_LOWBIT_') && about);
  });

  it('reports what it runs on', () => {
    const info = host.nativeInfo();
    assert.match(info.runtime.version, /^1\.\d+\.\d+$/);
    assert.ok(info.runtime.apiVersion >= 17 && info.runtime.apiVersion <= 22);
    assert.equal(info.operatorLibrary.path, operatorLibrary);
    assert.deepEqual(info.operatorLibrary.description, host.describeOps());
    assert.equal(info.cuda.error === '', info.cuda.devices.length > 0);
  });

  it('forces kernels by name, and lists them when there is no such kernel', () => {
    const kernel = host.describeOps().kernels.find(({ available }) => available)!;
    host.forceKernel(kernel.op, kernel.name);
    host.forceKernel(kernel.op, null);
    assert.throws(
      () => host.forceKernel(kernel.op, 'nope'),
      (error: Error & { code?: string }) => {
        assert.equal(error.code, 'usage');
        assert.match(error.message, /no kernel nope here, expected one of/);
        assert.ok(error.message.includes(kernel.name));
        return true;
      },
    );
    assert.throws(() => host.forceKernel('Nope', 'nope'), /expected an operator of .*QuantGemm/);
  });

  it('exports exactly this', () => {
    const names = ['Generator', 'InferenceSession', 'Tensor', 'describeOps', 'env', 'forceKernel', 'nativeInfo'];
    assert.deepEqual(Object.keys(host).sort(), names);
  });

  it("has onnxruntime-node's types", () => {
    // Compiles or not; at run time there is nothing to check.
    const asTheirs = (session: InferenceSession): OrtSession => session;
    const options: InferenceSession.SessionOptions = { executionProviders: [{ name: 'cuda', useTf32: true }, 'cpu'] };
    const theirs: OrtSession.SessionOptions = { executionProviders: ['cpu'], logSeverityLevel: 3 };
    const ours: InferenceSession.SessionOptions = theirs;
    const type: Tensor.Type = 'float32';
    const tensor: Tensor = new Tensor(type, [1], [1]);
    assert.ok(options && ours && tensor && typeof asTheirs === 'function');
  });
});
