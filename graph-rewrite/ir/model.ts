// A model: the main graph and everything around it.
import type { ExternalData } from '../onnx/external-data.js';
import type { FunctionProto, ModelProto } from '../onnx/messages.js';
import { Graph } from './graph.js';
import { Names } from './names.js';

export class Model {
  graph: Graph;
  /** Domain ('' is ai.onnx) to opset version. */
  readonly opsetImports: Map<string, number>;
  irVersion: number;
  producerName: string;
  producerVersion: string;
  readonly metadata: Map<string, string>;
  /** Folder that external data is relative to. */
  readonly dir: string;
  /** The file it was read from. */
  readonly path: string | undefined;
  /** The message it was read from; what we do not model is written back from there. */
  readonly source: ModelProto | undefined;
  readonly externalData: ExternalData | undefined;
  /** Names of values and of nodes in all graphs. */
  readonly names = new Names();
  readonly nodeNames = new Names();

  /** A model without nodes; `loadModel` reads one from a file. */
  constructor(
    fields: {
      irVersion?: number;
      opsetImports?: Iterable<[string, number]>;
      producerName?: string;
      producerVersion?: string;
      metadata?: Iterable<[string, string]>;
      dir?: string;
      path?: string;
      graphName?: string;
    } = {},
    source?: { proto: ModelProto; externalData: ExternalData },
  ) {
    this.irVersion = fields.irVersion ?? 10;
    this.opsetImports = new Map(fields.opsetImports ?? []);
    this.producerName = fields.producerName ?? '';
    this.producerVersion = fields.producerVersion ?? '';
    this.metadata = new Map(fields.metadata ?? []);
    this.dir = fields.dir ?? '.';
    this.path = fields.path;
    this.source = source?.proto;
    this.externalData = source?.externalData;
    this.graph = new Graph(
      this,
      source?.proto.graph?.name ?? fields.graphName ?? 'main',
      undefined,
      source?.proto.graph,
    );
  }

  /** Model-local functions, kept as they are. */
  get functions(): readonly FunctionProto[] {
    return this.source?.functions ?? [];
  }

  /** The main graph, then every subgraph below it. */
  *walkGraphs(): Iterable<Graph> {
    const stack = [this.graph];
    for (let graph = stack.pop(); graph; graph = stack.pop()) {
      yield graph;
      for (const node of graph.nodes) stack.push(...node.subgraphs());
    }
  }
}
