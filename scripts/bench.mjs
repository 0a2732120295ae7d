// npm run bench: builds what is missing, then times operators and models beside ONNX Runtime's own. Options: see bench/run.ts.
import { bootstrap } from './bootstrap.mjs';

bootstrap();
await import('../dist/bench/run.js');
