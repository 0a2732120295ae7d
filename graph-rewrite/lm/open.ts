import type { Model } from '../ir/model.js';
import { serializeModel } from '../onnx/write.js';
import type { CreateSession, ModelSession } from './session.js';

/**
 * A session of a model as it is in memory now, for a few runs. Weights that are in data files are mapped from there: without prepacking
 * there is no second copy of them, and without an arena a run gives its memory back.
 */
export async function openModel(model: Model, createSession: CreateSession): Promise<ModelSession> {
  const folder = model.externalData ? { model_external_initializers_file_folder_path: model.dir } : {};
  return await createSession(serializeModel(model, { externalDir: model.dir }), {
    enableCpuMemArena: false,
    extra: { session: { disable_prepacking: '1', ...folder } },
  });
}
