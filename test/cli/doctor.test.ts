import assert from 'node:assert/strict';
import { runCli, scratch } from './run-cli.js';

interface DoctorReport {
  readonly ready: boolean;
  readonly checks: readonly {
    readonly name: string;
    readonly status: string;
    readonly found: string;
    readonly fix?: string;
  }[];
}

const parts = [
  'Node.js',
  'CPU',
  'ONNX Runtime',
  'Operator library',
  'CUDA driver',
  'CUDA toolkit',
  'CUDA provider',
  'CUDA kernels',
];

describe('cli: doctor', function () {
  this.timeout(60_000);

  it('names every part, with what was found', async () => {
    const result = await runCli(['doctor', '--json']);
    assert.equal(result.code, 0, result.stdout);
    const { ready, checks } = result.json() as unknown as DoctorReport;
    assert.ok(ready);
    assert.deepEqual(
      checks.map(({ name }) => name),
      parts,
    );
    assert.ok(checks.every(({ found }) => found !== ''));
    for (const { name, status, fix } of checks) assert.ok(status === 'ok' || fix, `${name} has a fix`);
  });

  it('a library that is not there: says so with the fix, exit 3', async () => {
    const empty = scratch();
    try {
      const result = await runCli(['doctor', '--json'], { env: { ORT_LOWBIT_NATIVE_DIR: empty.path } });
      assert.equal(result.code, 3);
      const { ready, checks } = result.json() as unknown as DoctorReport;
      const library = checks.find(({ name }) => name === 'Operator library');
      assert.equal(ready, false);
      assert.equal(library?.status, 'missing');
      assert.match(library.found, /does not load: .*ort_lowbit_host\.node/);
      assert.match(library.fix ?? '', /npm run build/);
    } finally {
      empty.remove();
    }
  });
});
