// npm test: everything a change must pass, from a fresh clone on. Last line: `N passed, N failed`.
import { spawn } from 'node:child_process';
import { bootstrap, root } from './bootstrap.mjs';

bootstrap();

/** Runs a command with its output shown; resolves to its exit code and what it printed. */
function show(command, args) {
  return new Promise((resolve) => {
    const child = spawn(command, args, { cwd: root, stdio: ['ignore', 'pipe', 'inherit'] });
    let text = '';
    child.stdout.setEncoding('utf8').on('data', (chunk) => {
      text += chunk;
      process.stdout.write(chunk);
    });
    child.on('error', (error) => resolve({ code: 70, text: error.message }));
    child.on('close', (code) => resolve({ code: code ?? 70, text }));
  });
}

const totals = { passed: 0, failed: 0, skipped: 0 };

for (const script of ['lint', 'format:check']) {
  const { code } = await show('npm', ['run', '--silent', script]);
  totals[code === 0 ? 'passed' : 'failed']++;
  console.log(`${script}: ${code === 0 ? 'passed' : 'FAILED'}`);
}

const colour = process.stdout.isTTY ? ['--color'] : [];
const { code, text } = await show('npx', ['--no-install', 'mocha', ...colour, ...process.argv.slice(2)]);
const count = (word) => Number(new RegExp(`^\\s*(?:\\x1b\\[[0-9;]*m)*\\s*(\\d+) ${word}`, 'm').exec(text)?.[1] ?? 0);
totals.passed += count('passing');
totals.skipped += count('pending');
totals.failed += count('failing');
// A crash before the summary, or an exit code without a failing test, is a failure too.
if (!/\d+ passing/.test(text) || (code !== 0 && count('failing') === 0)) totals.failed++;

if (totals.skipped > 0) console.log(`${totals.skipped} skipped`);
console.log(`${totals.passed} passed, ${totals.failed} failed`);
process.exitCode = totals.failed === 0 ? 0 : 1;
