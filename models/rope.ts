// Rotary position tables.
import { toFloat16Bits } from '../ops/common/float16.js';
import { inlineTensor, type Tensor } from '../graph-rewrite/ir/tensor.js';
import type { LlamaConfig } from './llama-config.js';
import type { FloatType } from './weights.js';

/** cos and sin of position · theta^(-2i/headDim), each [positions, headDim/2]. */
export function ropeTables(config: LlamaConfig, type: FloatType): { cos: Tensor; sin: Tensor } {
  const half = config.headDim / 2;
  const dims = [config.maxPositions, half];
  const table = (wave: (angle: number) => number) => {
    const values = new Float32Array(config.maxPositions * half);
    for (let i = 0; i < half; i++) {
      const frequency = config.ropeTheta ** ((-2 * i) / config.headDim);
      for (let position = 0; position < config.maxPositions; position++)
        values[position * half + i] = wave(position * frequency);
    }
    const elements = type === 'float32' ? values : Uint16Array.from(values, toFloat16Bits);
    return inlineTensor(type, dims, new Uint8Array(elements.buffer));
  };
  return { cos: table(Math.cos), sin: table(Math.sin) };
}
