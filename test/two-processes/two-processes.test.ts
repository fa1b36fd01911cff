/**
 * Goal: the engine as it is deployed, each end a process of its own with TCP between them, moves a VM of a size
 * at which nothing fits into one buffer. Method: 1 GiB of memory and 1 GiB of disk under load; each end then
 * says what its VM holds, as digests, the destination before its guest runs.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'tsup';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { EndMessage, EndResult, SourceTask } from './end.ts';

const gibibyte = 2 ** 30;
const cache = fileURLToPath(new URL('../../.cache', import.meta.url));
const children: ChildProcess[] = [];
let directory: string;

beforeAll(async () => {
  mkdirSync(cache, { recursive: true });
  directory = mkdtempSync(join(cache, 'two-processes-'));
  const entry = { end: fileURLToPath(new URL('end.ts', import.meta.url)) };
  await build({ entry, outDir: directory, dts: false, sourcemap: false, clean: false, silent: true });
});

afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(directory, { recursive: true, force: true });
});

function start(role: 'source' | 'destination'): ChildProcess {
  const child = fork(join(directory, 'end.js'), [role]);
  children.push(child);
  return child;
}

async function next(child: ChildProcess): Promise<EndMessage> {
  const gone = once(child, 'exit').then(([code]) => {
    throw new Error(`an end exited with ${code}`);
  });
  const [message] = (await Promise.race([once(child, 'message'), gone])) as [EndMessage];
  return message;
}

async function result(child: ChildProcess): Promise<EndResult> {
  const message = await next(child);
  if (!('result' in message)) throw new Error('an end said something else first');
  return message.result;
}

test('1 GiB of memory and 1 GiB of disk move between two processes, and are equal at the handover', {
  timeout: 180_000,
}, async () => {
  const destination = start('destination');
  const listening = await next(destination);
  if (!('port' in listening)) throw new Error('the destination does not listen');
  const source = start('source');
  const task: SourceTask = { port: listening.port, memoryBytes: gibibyte, diskBytes: gibibyte };
  source.send(task);
  const [sent, received] = await Promise.all([result(source), result(destination)]);
  expect(sent).toMatchObject({ outcome: 'completed', error: null });
  expect(received).toMatchObject({ outcome: 'completed', error: null });
  expect(received.digests).toEqual(sent.digests);
  expect(Object.keys(sent.digests)).toEqual(['ram', 'disk0']);
  expect(sent.bytes.memory).toBeGreaterThanOrEqual(gibibyte);
  expect(sent.bytes.disk).toBeGreaterThan(0.8 * gibibyte);
  expect(sent.mirrored).toBeGreaterThan(0);
  const phases = ['connect', 'prepare', 'copyDisks', 'copyMemory', 'stun', 'verify', 'handover', 'release'];
  expect(sent.phases).toEqual([...phases, 'done']);
  process.stderr.write(
    `1 GiB + 1 GiB over TCP between two processes: ${Math.round(sent.totalMs)} ms, downtime ${sent.downtimeMs.toFixed(1)} ms\n`,
  );
});

test('64 MiB of pages that are alike move compressed over a slow link, and are equal at the handover', {
  timeout: 120_000,
}, async () => {
  const destination = start('destination');
  const listening = await next(destination);
  if (!('port' in listening)) throw new Error('the destination does not listen');
  const source = start('source');
  const policy = { compression: 'auto', rateBytesPerSecondMax: 8e6 } as const;
  const memoryBytes = gibibyte / 16;
  const task: SourceTask = { port: listening.port, memoryBytes, diskBytes: 1 << 20, policy, alike: true };
  source.send(task);
  const [sent, received] = await Promise.all([result(source), result(destination)]);
  expect(sent).toMatchObject({ outcome: 'completed', error: null });
  expect(received).toMatchObject({ outcome: 'completed', error: null });
  expect(received.digests).toEqual(sent.digests);
  const { memory, disk, mirror, wire } = sent.bytes;
  expect(memory).toBeGreaterThanOrEqual(memoryBytes);
  const { codec, inputBytes, savedBytes = 0 } = sent.compression ?? {};
  expect(savedBytes).toBeGreaterThan(memoryBytes / 8);
  expect(wire).toBeLessThan(memory + disk + mirror - 0.9 * savedBytes);
  expect(received.compression).toMatchObject({ codec, inputBytes, savedBytes });
});
