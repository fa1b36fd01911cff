/**
 * Goal: images that are given up while they are handed over come to one end: all of them are there, or none.
 * Method: `discard()` is called by the file system, at the very call that gives the first one its name.
 */
import { readdirSync, writeFileSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, expect, it, vi } from 'vitest';
import { createImageBackend } from '../../../src/backends/images/index.ts';
import { codeOf } from '../../nbd/nbd-fixtures.ts';
import { diskOf, prepareFor, temporaryDirectory } from './fixtures.ts';

const hooks = vi.hoisted(() => ({ linked: () => {} }));

vi.mock('node:fs/promises', async (importOriginal) => {
  const real = await importOriginal<typeof import('node:fs/promises')>();
  const link: typeof real.link = async (from, to) => {
    await real.link(from, to);
    hooks.linked();
  };
  return { ...real, link };
});

let directory: ReturnType<typeof temporaryDirectory>;

beforeEach(() => {
  directory = temporaryDirectory();
});

afterEach(() => directory.remove());

it.each([
  ['stay if that succeeds', [], 'resolved', ['a.img', 'b.img']],
  ['go if that fails', ['b.img'], 'disk-write', ['b.img']],
])('%s', async (_, theirs, outcome, left) => {
  const backend = createImageBackend({ directory: directory.path });
  const vm = await prepareFor(backend, diskOf('a'), diskOf('b'));
  let discarding: Promise<void> | undefined;
  hooks.linked = () => {
    if (discarding !== undefined) return;
    discarding = vm.discard();
    for (const name of theirs) writeFileSync(join(directory.path, name), 'theirs');
  };
  expect(await codeOf(vm.handOver())).toBe(outcome);
  expect(discarding).toBeDefined();
  await discarding;
  expect(readdirSync(directory.path).sort()).toEqual(left);
});

it('go if none has its name yet', async () => {
  const vm = await prepareFor(createImageBackend({ directory: directory.path }), diskOf('a'));
  const handing = codeOf(vm.handOver());
  await vm.discard();
  expect(await handing).toBe('aborted');
  expect(readdirSync(directory.path)).toEqual([]);
});
