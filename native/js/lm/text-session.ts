import type { Cache } from './cache.js';
import { fixedCache, growingCache } from './cache.js';
import { CapturedSteps } from './captured-steps.js';
import { fillsOutputs } from './memory.js';
import type { FindTop } from './scores.js';
import type { DeviceSession, ModelSession } from './session.js';
import type { TextModel } from './text-model.js';

/** What a batch decodes with. */
export interface Buffers {
  readonly batch: number;
  readonly cache: Cache;
  /** Runs of one token as a captured CUDA graph. */
  readonly captured: CapturedSteps | undefined;
}

/** New tokens that a cache in place has room for when nobody says how many there will be. */
const defaultRoom = 256;

/** A session, what is known of its model, and the buffers that its batches decode with. */
export class TextSession {
  readonly session: ModelSession;
  readonly model: TextModel;
  /** Finds the largest scores on the device; only for a session that has one. */
  readonly findTop: FindTop | undefined;
  readonly #cudaGraph: boolean;
  /** A captured graph belongs to the buffers it was captured with, so the last ones are kept for a batch of the same shape. */
  #idle: Buffers | undefined;
  #graphs = 0;

  constructor(session: ModelSession, model: TextModel, findTop?: FindTop) {
    this.session = session;
    this.model = model;
    this.findTop = findTop;
    this.#cudaGraph = (session as Partial<DeviceSession>).cudaGraph ?? false;
  }

  /**
   * Buffers for a batch; a cache of a fixed capacity where the graph takes one.
   * @param longest tokens of the longest prompt
   * @param capacity tokens that a sequence may come to; rounded up
   */
  async acquire(batch: number, longest: number, capacity?: number): Promise<Buffers> {
    const { session, model } = this;
    const shared = fillsOutputs(session) && capacity !== undefined;
    const grows = model.cache === 'growing' || (model.cache === 'shareable' && !shared);
    if (grows && !this.#cudaGraph) return { batch, cache: growingCache(model, batch), captured: undefined };
    // Coarser for a captured graph, so that more batches are of the same shape.
    const step = this.#cudaGraph ? 256 : 16;
    const columns = Math.ceil((capacity ?? longest + defaultRoom) / step) * step;
    const room = Math.min(columns, model.positions ?? columns);
    const idle = this.#idle;
    this.#idle = undefined;
    if (idle?.batch === batch && idle.cache.capacity === room) return idle;
    if (idle) disposeOf(idle);
    const cache = await fixedCache(session, model, batch, room);
    const captured = this.#cudaGraph ? new CapturedSteps(session as DeviceSession, model, ++this.#graphs) : undefined;
    return { batch, cache, captured };
  }

  /** Takes buffers back that nobody decodes with any more. */
  giveBack(buffers: Buffers): void {
    if (buffers.captured && !this.#idle) this.#idle = buffers;
    else disposeOf(buffers);
  }

  /** Gives the memory of idle buffers back. */
  dispose(): void {
    if (this.#idle) disposeOf(this.#idle);
    this.#idle = undefined;
  }
}

function disposeOf({ cache, captured }: Buffers): void {
  cache.dispose();
  captured?.dispose();
}
