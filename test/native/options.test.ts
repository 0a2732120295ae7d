import assert from 'node:assert/strict';
import { flattenEntries } from '../../native/js/check-option.js';
import { InferenceSession, Tensor, type SessionOptions } from '../../native/js/index.js';
import { readSessionOptions } from '../../native/js/session-options.js';
import { addSubModel } from '../helpers/tiny-models.js';

describe('native/options', () => {
  /** Wrong options, and what the TypeError must say about them. */
  const wrong: [options: unknown, message: RegExp][] = [
    [null, /^options: is null, expected an object/],
    [[], /^options: is an array of 0, expected an object/],
    [
      { threads: 4 },
      /^options\.threads: is not an option, expected one of 'enableCpuMemArena', .*'profileFilePrefix'\.$/,
    ],
    [{ intraOpNumThreads: '4' }, /^options\.intraOpNumThreads: is '4', expected an integer 0 … 65535/],
    [{ interOpNumThreads: -1 }, /^options\.interOpNumThreads: is -1, expected an integer/],
    [
      { graphOptimizationLevel: 'max' },
      /^options\.graphOptimizationLevel: is 'max', expected one of 'disabled', 'basic'/,
    ],
    [{ executionMode: 1 }, /^options\.executionMode: is 1, expected one of 'sequential', 'parallel'/],
    [{ enableCpuMemArena: 1 }, /^options\.enableCpuMemArena: is 1, expected true or false/],
    [{ enableMemPattern: 'yes' }, /^options\.enableMemPattern: is 'yes'/],
    [{ optimizedModelFilePath: 1 }, /^options\.optimizedModelFilePath: is 1, expected a string/],
    [{ logSeverityLevel: 5 }, /^options\.logSeverityLevel: is 5, expected an integer 0 … 4/],
    [{ freeDimensionOverrides: { n: 1.5 } }, /^options\.freeDimensionOverrides\.n: is 1\.5, expected an integer/],
    [{ executionProviders: 'cpu' }, /^options\.executionProviders: is 'cpu', expected an array/],
    [
      { executionProviders: ['webgpu'] },
      /^options\.executionProviders\[0\]: is 'webgpu', expected one of 'cpu', 'cuda'/,
    ],
    [{ executionProviders: [{ name: 'gpu' }] }, /^options\.executionProviders\[0\]\.name: is 'gpu', expected one of/],
    [{ executionProviders: ['cpu', { name: 'cuda', device: 0 }] }, /^options\.executionProviders\[1\]\.device: is not/],
    [{ executionProviders: [{ name: 'cuda', deviceId: '0' }] }, /^options\.executionProviders\[0\]\.deviceId: is '0'/],
    [{ executionProviders: [{ name: 'cuda', useTf32: 1 }] }, /^options\.executionProviders\[0\]\.useTf32: is 1/],
    [{ executionProviders: [{ name: 'cuda', gpuMemLimit: 0 }] }, /\.gpuMemLimit: is 0, expected an integer ≥ 1/],
    [
      { extra: { session: { x: null } } },
      /^options\.extra\.session\.x: is null, expected a string, a number, a boolean/,
    ],
    [{ externalData: [{ path: 'x', data: 5 }] }, /^options\.externalData\[0\]\.data: is 5, expected a Uint8Array/],
    [{ externalData: [{ data: new Uint8Array(1) }] }, /^options\.externalData\[0\]\.path: is undefined/],
    [{ preferredOutputLocation: 'texture' }, /^options\.preferredOutputLocation: is 'texture', expected one of 'cpu'/],
    [
      { preferredOutputLocation: 'gpu-buffer' },
      /expected 'cpu'. 'gpu-buffer' needs 'cuda' in options.executionProviders/,
    ],
    [
      { preferredOutputLocation: { nope: 'cpu' } },
      /^options\.preferredOutputLocation\.nope: is no output, expected one of "sum"/,
    ],
    [{ enableGraphCapture: true }, /^options\.enableGraphCapture: is true, expected false without the 'cuda'/],
  ];
  for (const [options, message] of wrong) {
    it(`refuses ${JSON.stringify(options)}`, async () => {
      await assert.rejects(InferenceSession.create(addSubModel(), options as SessionOptions), {
        name: 'TypeError',
        message,
      });
    });
  }

  it('turns CUDA options into provider options', async () => {
    const { native, locationOf } = await readSessionOptions(
      {
        executionProviders: [
          { name: 'cuda', deviceId: 1, gpuMemLimit: 2 ** 32, enableCudaGraph: true, extra: { prefer_nhwc: '1' } },
          'cpu',
        ],
        preferredOutputLocation: { logits: 'cpu', present: 'gpu-buffer' },
      },
      true,
    );
    assert.equal(native.deviceId, 1);
    assert.deepEqual(Object.fromEntries(native.cuda!), {
      device_id: '1',
      enable_cuda_graph: '1',
      use_tf32: '0',
      gpu_mem_limit: '4294967296',
      prefer_nhwc: '1',
    });
    assert.deepEqual(['logits', 'present', 'other'].map(locationOf), ['cpu', 'gpu-buffer', 'cpu']);
  });

  it('takes options set to undefined as absent', async () => {
    const session = await InferenceSession.create(addSubModel(), { logId: undefined, other: undefined } as object);
    await session.release();
  });

  it('flattens nested entries', () => {
    assert.deepEqual(flattenEntries({ session: { a: 1, b: { c: true } }, d: 'x' }, 'extra'), [
      ['session.a', '1'],
      ['session.b.c', '1'],
      ['d', 'x'],
    ]);
    const cyclic: Record<string, unknown> = {};
    cyclic['self'] = cyclic;
    assert.throws(() => flattenEntries(cyclic, 'extra'), /extra: contains itself/);
  });

  const x = () => new Tensor('float32', new Float32Array(3), [1, 3]);

  /** Wrong calls of run, and what they must be told. */
  const wrongRuns: [name: string, call: (session: InferenceSession) => Promise<unknown>, error: object][] = [
    [
      'missing inputs, all at once',
      (s) => s.run({}),
      { name: 'LowbitError', message: /^feeds: missing "a" float32\[rows, 3\], "b" float32\[rows, 3\], expected/ },
    ],
    [
      'an unknown input',
      (s) => s.run({ a: x(), b: x(), c: x() }),
      { message: /^feeds: unknown "c", expected "a", "b"\.$/ },
    ],
    ['no feeds', (s) => s.run(null as never), { name: 'TypeError', message: /^feeds: is null/ }],
    [
      'an array for a tensor',
      (s) => s.run({ a: [1] as never, b: x() }),
      { name: 'TypeError', message: /^input "a": is an array of 1, expected a Tensor/ },
    ],
    [
      'a wrong type',
      (s) => s.run({ a: x(), b: new Tensor('int32', new Int32Array(3), [1, 3]) }),
      { message: /^input "b": is int32\[1, 3\], expected the type of float32\[rows, 3\]/ },
    ],
    [
      'a wrong rank',
      (s) => s.run({ a: x(), b: new Tensor('float32', new Float32Array(3), [3]) }),
      { message: /^input "b": is float32\[3\] of rank 1, expected rank 2: float32\[rows, 3\]/ },
    ],
    [
      'a wrong dimension',
      (s) => s.run({ a: x(), b: new Tensor('float32', new Float32Array(4), [1, 4]) }),
      { message: /^input "b": is float32\[1, 4\] with 4 at dimension 1, expected 3/ },
    ],
    [
      'a disposed tensor',
      (s) => {
        const gone = x();
        gone.dispose();
        return s.run({ a: gone, b: x() });
      },
      { message: /^input "a": the tensor is disposed/ },
    ],
    [
      'a detached buffer',
      (s) => {
        const data = new Float32Array(3);
        const tensor = new Tensor('float32', data, [1, 3]);
        structuredClone(data, { transfer: [data.buffer] });
        return s.run({ a: tensor, b: x() });
      },
      { message: /^input "a": its data has 0 bytes, expected 12/ },
    ],
    [
      'an unknown output',
      (s) => s.run({ a: x(), b: x() }, ['sum', 'product']),
      { message: /^fetches: unknown 'product', expected "sum", "difference"/ },
    ],
    ['no outputs', (s) => s.run({ a: x(), b: x() }, []), { name: 'TypeError', message: /^fetches: is an empty array/ }],
    [
      'an output of a wrong type',
      (s) => s.run({ a: x(), b: x() }, { sum: new Tensor('int32', [1, 2, 3], [1, 3]) }),
      { message: /^output "sum": is int32/ },
    ],
    [
      'an unknown run option',
      (s) => s.run({ a: x(), b: x() }, { timeout: 1 } as never),
      { name: 'TypeError', message: /^runOptions\.timeout: is not an option, expected one of 'extra'/ },
    ],
    [
      'a wrong signal',
      (s) => s.run({ a: x(), b: x() }, { signal: 1 as never }),
      { name: 'TypeError', message: /^runOptions\.signal: is 1, expected an AbortSignal/ },
    ],
  ];
  for (const [name, call, error] of wrongRuns) {
    it(`run refuses ${name}`, async () => {
      const session = await InferenceSession.create(addSubModel());
      await assert.rejects(call(session), error);
      await session.release();
    });
  }

  it('leaves conflicts between shapes to ONNX Runtime, which names the node', async () => {
    const session = await InferenceSession.create(addSubModel(), { logSeverityLevel: 4 });
    const two = new Tensor('float32', new Float32Array(6), [2, 3]);
    const three = new Tensor('float32', new Float32Array(9), [3, 3]);
    await assert.rejects(session.run({ a: two, b: three }), { name: 'LowbitError', message: /^run: .*(Add|Sub)/ });
    await session.release();
  });
});
