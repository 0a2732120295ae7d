#!/usr/bin/env node
import { existsSync } from 'node:fs';

const entry = new URL('../dist/graph-rewrite/cli/main.js', import.meta.url);
if (existsSync(entry)) {
  const { main } = await import(entry.href);
  process.exitCode = await main(process.argv.slice(2));
} else {
  console.error('rewrite: the compiled program is not there, expected dist/graph-rewrite/cli. Run npm run build.');
  process.exitCode = 3;
}
