/**
 * Goal: a destination disk at 5 MB/s behind a link of 100 MB/s holds up nothing but itself, and what waits for it stays within the stream's credit.
 * Method: each end a process of its own, over TCP; the destination counts what its own buffers hold.
 */
import { type ChildProcess, fork } from 'node:child_process';
import { once } from 'node:events';
import { mkdirSync, mkdtempSync, rmSync } from 'node:fs';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { build } from 'tsup';
import { afterAll, beforeAll, expect, test } from 'vitest';
import type { Watched } from './slow-disk-end.ts';

const mebibyte = 1 << 20;
const cache = fileURLToPath(new URL('../../.cache', import.meta.url));
const children: ChildProcess[] = [];
let directory: string;

beforeAll(async () => {
  mkdirSync(cache, { recursive: true });
  directory = mkdtempSync(join(cache, 'slow-disk-'));
  const entry = { end: fileURLToPath(new URL('slow-disk-end.ts', import.meta.url)) };
  await build({ entry, outDir: directory, dts: false, sourcemap: false, clean: false, silent: true });
});

afterAll(() => {
  for (const child of children) child.kill('SIGKILL');
  rmSync(directory, { recursive: true, force: true });
});

function start(role: 'source' | 'destination'): ChildProcess {
  const child = fork(join(directory, 'end.js'), [role], { execArgv: ['--expose-gc'] });
  children.push(child);
  return child;
}

async function next<T>(child: ChildProcess): Promise<T> {
  const [message] = await once(child, 'message');
  return message as T;
}

test('a slow disk holds up nothing but itself', { timeout: 120_000 }, async () => {
  const destination = start('destination');
  const { port } = await next<{ port: number }>(destination);
  start('source').send({ port });
  const { code, fastMs, slowBytes, bufferBytesMax } = await next<Watched & { code: string }>(destination);
  expect(code).toBe('aborted');
  // 192 MiB at 100 MB/s, shared with what the slow disk takes, and with the tests beside this one.
  expect(fastMs).toBeLessThan(20_000);
  expect(slowBytes).toBeGreaterThan(0);
  expect(slowBytes).toBeLessThan(0.5 * 512 * mebibyte);
  // Its credit is 32 MiB. A buffer that the kernel filled stays while a part of it is needed: as much again, at the most.
  expect(bufferBytesMax).toBeGreaterThan(8 * mebibyte);
  expect(bufferBytesMax).toBeLessThan(96 * mebibyte);
  process.stderr.write(
    `fast disk ${Math.round(fastMs)} ms, slow disk ${(slowBytes / mebibyte).toFixed(1)} MiB; buffers ${(bufferBytesMax / mebibyte).toFixed(1)} MiB at most\n`,
  );
});
