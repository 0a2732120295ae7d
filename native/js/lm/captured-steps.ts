/**
 * Runs of one token that replay a captured CUDA graph. A replay reads and writes the addresses of the capture: every input and output is a
 * device tensor that stays, and inputs are overwritten.
 */
import type { Tensor } from 'onnxruntime-common';
import type { Cache } from './cache.js';
import { free } from './memory.js';
import type { DeviceSession, Feeds, StepOptions } from './session.js';
import type { TextModel } from './text-model.js';

/** Run option of a run that no graph is captured of or replayed in. */
export const withoutGraph = { gpu_graph_id: '-1' } as const;

export class CapturedSteps {
  readonly #session: DeviceSession;
  readonly #model: TextModel;
  readonly #graph: string;
  readonly #inputs: Feeds = {};
  #logits: Tensor | undefined;

  /** @param graph number of the graph in its session */
  constructor(session: DeviceSession, model: TextModel, graph: number) {
    this.#session = session;
    this.#model = model;
    this.#graph = String(graph);
  }

  /** Makes the tensor for the scores, in the type and width that the prompt's had. */
  async prepare(prompt: Tensor, batch: number): Promise<void> {
    const dims = [batch, 1, prompt.dims.at(-1)!];
    this.#logits ??= await this.#session.toDevice({ type: prompt.type, dims });
  }

  /**
   * Runs a step.
   * @param inputs on the host, of the same shapes every time
   * @returns the scores, overwritten by the next step
   */
  async run(inputs: Feeds, cache: Cache, options: StepOptions): Promise<Tensor> {
    const uploads = Object.entries(inputs).map(async ([name, tensor]) => {
      this.#inputs[name] = await this.#session.toDevice(tensor, this.#inputs[name]);
    });
    await Promise.all(uploads);
    const logits = this.#logits!;
    Object.assign(cache.feeds, this.#inputs);
    const fetches = { ...cache.fetches, [this.#model.logits]: logits };
    await this.#session.run(cache.feeds, fetches, { ...options, extra: { gpu_graph_id: this.#graph } });
    return logits;
  }

  dispose(): void {
    free([...Object.values(this.#inputs), this.#logits]);
  }
}
