export * from './attributes.js';
export { checkModel } from './check.js';
export { Graph } from './graph.js';
export { Model } from './model.js';
export { Node, type NodeSpec } from './node.js';
export { printGraph } from './print.js';
export * from './tensor.js';
export { Value, type Use } from './value.js';
export type { DType } from '../onnx/dtype.js';
