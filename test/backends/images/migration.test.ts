/**
 * Goal: the disks of a running VM become images, as they were at one moment, and the VM runs on. Method: the
 * whole engine over TCP on this machine, a VM in memory whose guest writes all the while, and files; what its
 * disks held while it was stunned is compared with them byte by byte.
 */
import { existsSync, readdirSync, readFileSync, statSync } from 'node:fs';
import { join } from 'node:path';
import { afterEach, beforeEach, describe, expect, it } from 'vitest';
import { createImageBackend, type ImageBackendOptions } from '../../../src/backends/images/index.ts';
import { createMemoryVm, type MemoryVm, randomWriter } from '../../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type MigrationPolicy,
  memoryRegister,
  type SourceVm,
} from '../../../src/index.ts';
import { tcp } from '../../../src/transports/index.ts';
import { canMount, mountSmall } from '../../support/small-file-system.ts';
import { withChanges } from '../../support/worlds.ts';
import { MIB, temporaryDirectory } from './fixtures.ts';

let directory: ReturnType<typeof temporaryDirectory>;
let vm: MemoryVm;
const sizes: Readonly<Record<string, number>> = { disk0: 24 * MIB + 512, disk1: 8 * MIB };

beforeEach(() => {
  directory = temporaryDirectory();
  vm = createMemoryVm({
    vmId: 'vm-1',
    // More than a moment carries: it must not count.
    memoryBytes: 256 * MIB,
    disks: [
      { id: 'disk0', sizeBytes: sizes.disk0 ?? 0, allocatedFraction: 0.5, seed: 1 },
      { id: 'disk1', sizeBytes: sizes.disk1 ?? 0 },
    ],
  });
  const hotBytes = 4 * MIB;
  vm.startWorkload(randomWriter({ disk: 'disk0', bytes: 8192, writesPerSecond: 300, hotBytes }));
  vm.startWorkload(randomWriter({ disk: 'disk1', bytes: 512, writesPerSecond: 100, hotBytes: MIB }));
});

afterEach(() => {
  vm.destroy();
  directory.remove();
});

/** What the disks held while the guest was stunned last. */
const stunned = new Map<string, Uint8Array>();

async function move(
  options: ImageBackendOptions,
  policy: MigrationPolicy = {},
  until = Number.POSITIVE_INFINITY,
) {
  const backend = createImageBackend(options);
  const listening = tcp({ listen: { host: '127.0.0.1', port: 0 } });
  const connecting = tcp({ connect: await listening.listening() });
  const source = vm.source();
  const watched = withChanges<SourceVm>(source, {
    stun: async (call) => {
      await source.stun(call);
      for (const [id, sizeBytes] of Object.entries(sizes)) {
        stunned.set(id, vm.disk(id).medium.read(0, sizeBytes));
      }
    },
  });
  const from = createSource({
    vm: watched,
    transport: connecting,
    register: memoryRegister(),
    policy: { memory: 'none', ...policy },
  });
  const to = createDestination({ backend, transport: listening, register: memoryRegister() });
  const abort = new AbortController();
  to.on('progress', ({ transferredBytes }) => {
    if (transferredBytes > until) abort.abort();
  });
  const [sent, received] = await Promise.all([from.run({ signal: abort.signal }), to.run()]);
  await Promise.all([connecting.close(), listening.close()]);
  return { backend, sent, received };
}

function expectImages(paths: ReadonlyMap<string, string>, ...ids: readonly string[]): void {
  expect([...paths.keys()]).toEqual(ids);
  for (const id of ids) {
    const image = readFileSync(paths.get(id) ?? '');
    expect([id, Buffer.compare(image, stunned.get(id) ?? new Uint8Array())]).toEqual([id, 0]);
  }
}

it('every disk is an image as at the stun, sparse, and the guest writes on', async () => {
  const { backend, sent, received } = await move({ directory: directory.path });
  for (const report of [sent, received]) {
    expect(report.error).toBeUndefined();
    expect(report).toMatchObject({ outcome: 'copied', owner: 'source', bytes: { memory: 0, state: 0 } });
  }
  expectImages(backend.images, 'disk0', 'disk1');
  expect(readdirSync(directory.path).sort()).toEqual(['disk0.img', 'disk1.img']);
  // A half of the first one was never written, and nearly all of the other.
  expect(512 * statSync(join(directory.path, 'disk1.img')).blocks).toBeLessThan(2 * MIB);
  expect(vm.state).toBe('running');
  await vm.guest.writeDisk('disk0', 0, new Uint8Array(512));
});

it('a disk that stays is none', async () => {
  const images = { disk1: join(directory.path, 'data.raw') };
  const { backend, sent } = await move({ images }, { disks: { disk0: 'leave' } });
  expect(sent).toMatchObject({ outcome: 'copied' });
  expectImages(backend.images, 'disk1');
});

it('a whole VM is refused, and nothing is left', async () => {
  const { sent, received } = await move({ directory: directory.path }, { memory: 'copy' });
  for (const report of [sent, received]) {
    expect(report).toMatchObject({ outcome: 'failed', error: { code: 'unsupported' } });
  }
  expect(readdirSync(directory.path)).toEqual([]);
  expect(vm.state).toBe('running');
});

it('an attempt that is ended leaves nothing; one that uses its file leaves what the next one goes on from', async () => {
  const path = join(directory.path, 'disk0');
  const policy: MigrationPolicy = { disks: { disk1: 'leave' }, rateBytesPerSecondMax: 8 * MIB };
  const anew = await move({ images: { disk0: path } }, policy, 4 * MIB);
  expect(anew.sent).toMatchObject({ outcome: 'failed', error: { code: 'aborted' } });
  expect(readdirSync(directory.path)).toEqual([]);
  const options = { images: { disk0: path }, existing: 'use' } as const;
  const first = await move(options, policy, 6 * MIB);
  expect(first.sent).toMatchObject({ outcome: 'failed', error: { code: 'aborted' } });
  expect(existsSync(path)).toBe(true);
  // Slowly, for what has not been compared when its turn comes is sent.
  const second = await move(options, { ...policy, rateBytesPerSecondMax: 4 * MIB, seed: 'compare' });
  expect(second.sent.error).toBeUndefined();
  expect(second.sent).toMatchObject({ outcome: 'copied' });
  expect(second.sent.bytes.unchanged).toBeGreaterThan(0);
  expectImages(second.backend.images, 'disk0');
});

// Skipped where no file system can be mounted: there is none then that could run full.
describe.skipIf(!canMount)('a destination that runs full', () => {
  it('is a clean end at both ends, and nothing is left', async () => {
    using small = mountSmall(6 * MIB);
    const images = { disk0: join(small.path, 'disk0'), disk1: join(small.path, 'disk1') };
    const { sent, received } = await move({ images });
    for (const report of [sent, received]) {
      expect(report).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'disk-full' } });
    }
    expect(readdirSync(small.path)).toEqual([]);
    expect(vm.state).toBe('running');
    await vm.guest.writeDisk('disk0', 0, new Uint8Array(512));
  });
});
