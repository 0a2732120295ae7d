import assert from 'node:assert/strict';
import { readFileSync } from 'node:fs';
import { join } from 'node:path';
import { InferenceSession } from 'onnxruntime-node';

import {
  bookwormFolder,
  materializeBookworm,
  restoreExport,
  verifyExport,
  type BookwormKind,
} from '../../models/bookworm.js';
import { loadModel } from '../../graph-rewrite/onnx/read.js';
import { saveModel } from '../../graph-rewrite/onnx/write.js';
import { decode, toFloat32 } from '../helpers/decoder.js';
import { temporaryFolder } from '../helpers/files.js';

/** The first ids of the held-out text; the .npy header takes 128 bytes. */
function evaluationIds(count: number): number[] {
  const bytes = readFileSync(join(bookwormFolder, 'eval-tokens.npy')).subarray(128, 128 + 2 * count);
  return Array.from({ length: count }, (_, i) => bytes.readUInt16LE(2 * i));
}

async function logitsOf(path: string): Promise<Float32Array> {
  const session = await InferenceSession.create(path);
  try {
    return toFloat32(await decode(session, evaluationIds(32), [24, 8]));
  } finally {
    await session.release();
  }
}

describe('bookworm-11m', () => {
  const folder = temporaryFolder();

  for (const kind of ['dynamo', 'genai'] as const) {
    it(`the ${kind} export has the original's weights, bit for bit`, () => verifyExport(kind, restoreExport(kind)));
  }

  it('the model we build computes what both exports compute', async () => {
    const kinds: BookwormKind[] = ['dynamo', 'genai', 'built'];
    const [dynamo, ...others] = await Promise.all(
      kinds.map(async (kind) => logitsOf(await materializeBookworm(kind, folder.path()))),
    );
    for (const [index, logits] of others.entries()) {
      const difference = logits.reduce((largest, value, i) => Math.max(largest, Math.abs(value - dynamo![i]!)), 0);
      assert.ok(difference < 1e-4, `${kinds[index + 1]}: logits differ by ${difference}`);
    }
  });

  it('runs equally, bit for bit, after a read and a write', async () => {
    for (const kind of ['dynamo', 'genai'] as const) {
      const path = await materializeBookworm(kind, folder.path());
      await saveModel(loadModel(path), folder.path(`${kind}-copy.onnx`));
      const [before, after] = [await logitsOf(path), await logitsOf(folder.path(`${kind}-copy.onnx`))];
      assert.ok(Buffer.from(before.buffer).equals(Buffer.from(after.buffer)), kind);
    }
  });
});
