import assert from 'node:assert/strict';
import type { CudaFacts } from '../../native/js/addon.js';
import { cudaCauses, versionOf } from '../../native/js/cuda-errors.js';
import { InferenceSession, nativeInfo } from '../../native/js/index.js';
import { addSubModel } from '../helpers/tiny-models.js';

const gpu: CudaFacts = {
  driverFound: true,
  error: '',
  driverVersion: 12020,
  devices: [{ name: 'NVIDIA H200', capability: '9.0', memoryBytes: 150e9 }],
};
const none: CudaFacts = { driverFound: false, error: 'no NVIDIA driver', driverVersion: 0, devices: [] };
const fine = { message: '', facts: gpu, missingProviderFiles: [], deviceId: 0 };

describe('native/cuda errors', () => {
  const cases: [situation: Partial<typeof fine>, causes: RegExp[]][] = [
    [{}, []],
    [{ facts: none }, [/^driver: no NVIDIA driver\. Install/]],
    [{ facts: { ...none, driverFound: true } }, [/^driver: .*Update or restart/]],
    [{ deviceId: 2 }, [/^device: no device 2, expected 0 … 0 \(NVIDIA H200\)/]],
    [
      { missingProviderFiles: ['libonnxruntime_providers_cuda.so'] as never },
      [/^provider: libonnxruntime_providers_cuda\.so not found/],
    ],
    [
      { message: 'Failed to load library libx.so with error: libcublasLt.so.13: cannot open shared object file' },
      [/^runtime: libcublasLt\.so\.13 not found/],
    ],
    [{ message: 'libcudnn.so.9: cannot open shared object file' }, [/^runtime: libcudnn\.so\.9 not found/]],
    [
      { message: 'CUDA failure 35: CUDA driver version is insufficient for CUDA runtime version' },
      [/^driver: too old .*supports CUDA 12\.2/],
    ],
    [
      { message: 'CUDA failure 209: no kernel image is available for execution on the device' },
      [/^architecture: no code for NVIDIA H200 \(compute capability 9\.0\)/],
    ],
    [{ message: 'CUDA failure 2: out of memory' }, [/^memory: /]],
    [{ facts: none, missingProviderFiles: ['a.so'] as never }, [/^driver: /, /^provider: a\.so not found/]],
  ];
  for (const [situation, causes] of cases) {
    it(`${JSON.stringify(situation).slice(0, 90)}`, () => {
      const found = cudaCauses({ ...fine, ...situation });
      assert.equal(found.length, causes.length, found.join(' | '));
      causes.forEach((cause, i) => assert.match(found[i]!, cause));
    });
  }

  it('writes CUDA versions', () => assert.deepEqual([13000, 12020, 0].map(versionOf), ['13.0', '12.2', 'unknown']));

  it('tells on this machine what is missing for a CUDA session', async function () {
    const { cuda } = nativeInfo();
    if (!cuda.error && cuda.missingProviderFiles.length === 0) return this.skip(); // there is a GPU: test:gpu covers it
    await assert.rejects(InferenceSession.create(addSubModel(), { executionProviders: ['cuda'] }), {
      name: 'LowbitError',
      code: 'input',
      message: cuda.error ? /^cuda: driver: / : /^cuda: provider: /,
    });
  });
});
