#!/usr/bin/env node
/** The command-line program: the process around `runProgram`. */
import { readFileSync, writeSync } from 'node:fs';
import { exitCodes } from './exit-code.ts';
import { runProgram } from './program.ts';
import { unforeseenJson } from './report-json.ts';
import { Screen } from './screen.ts';

// Whoever read our output may be gone: no reason to end a migration.
process.stdout.on('error', () => {});
process.stderr.on('error', () => {});

process.on('uncaughtException', (error) => {
  process.stderr.write(`longhaul: an unforeseen error: ${error.stack ?? error}\n`);
  // At once: what waits to be written is lost when a process exits.
  if (process.argv.includes('--json')) writeSync(1, `${unforeseenJson(error)}\n`);
  process.exit(exitCodes.undecided);
});

const { version } = JSON.parse(readFileSync(new URL('../../package.json', import.meta.url), 'utf8'));
const context = {
  print: (line: string) => process.stdout.write(`${line}\n`),
  screen: new Screen(process.stderr, process.env),
  env: process.env,
  signals: process,
};
const exitCode = await runProgram(process.argv.slice(2), context, String(version));
// What was written to a pipe is still on its way.
await new Promise((resolve) => process.stdout.write('', resolve));
await new Promise((resolve) => process.stderr.write('', resolve));
process.exit(exitCode);
