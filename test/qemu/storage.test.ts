/**
 * Goal: a real guest's disks move alone, into images and onto an export, as they were at one moment; and a
 * destination without room is told of before, or ends the migration cleanly. Method: the whole engine over
 * TCP on this machine, a Linux guest under load as the source; what its disks held while it was stunned is
 * kept by qemu-img, and the guest itself looks for what it may have lost.
 */
import { execFile } from 'node:child_process';
import { readdirSync } from 'node:fs';
import { readFile, writeFile } from 'node:fs/promises';
import { join } from 'node:path';
import { promisify } from 'node:util';
import { afterAll, afterEach, beforeAll, describe, expect, it } from 'vitest';
import { createImageBackend } from '../../src/backends/images/index.ts';
import { createQemuBackend, openQemuSource, type QemuBackendOptions } from '../../src/backends/qemu/index.ts';
import {
  createDestination,
  createSource,
  type HypervisorBackend,
  type MigrationPolicy,
  memoryRegister,
  recover,
  type SourceVm,
} from '../../src/index.ts';
import { tcp } from '../../src/transports/index.ts';
import { pattern } from '../nbd/nbd-fixtures.ts';
import { canMount, mountSmall } from '../support/small-file-system.ts';
import { withChanges } from '../support/worlds.ts';
import { expectClean } from './support/clean.ts';
import {
  bootGuest,
  createDisk,
  type DiskSpec,
  type Guest,
  guestDirectory,
  qemuAvailable,
} from './support/guest.ts';
import { HeldMonitor } from './support/held-monitor.ts';
import { tapDisk } from './support/source-fixture.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 96 * MIB;
const run = promisify(execFile);

const qemu = qemuAvailable();
const suite = qemu.available ? 'disks of a real guest' : `disks of a real guest (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these; the suite's name says what was missing.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  let directory: ReturnType<typeof guestDirectory>;
  let guest: Guest;
  let disks: DiskSpec[];
  let others: Guest[] = [];

  beforeAll(async () => {
    directory = guestDirectory();
    // The second one holds only what was written since, above a base which the copy does not need: behind
    // what the guest writes, to stay as it is.
    const base = join(directory.path, 'base');
    await writeFile(
      base,
      Buffer.concat([Buffer.alloc(64 * MIB), pattern(MIB, 1), Buffer.alloc(DISK_BYTES - 65 * MIB)]),
    );
    const overlay: DiskSpec = { file: join(directory.path, 'a1'), format: 'qcow2', sizeBytes: DISK_BYTES };
    await run('qemu-img', ['create', '-q', '-f', 'qcow2', '-b', base, '-F', 'raw', overlay.file]);
    disks = [await disk('a0', 'raw'), overlay];
    const load = { fillMiB: 24, hotMiB: 32, writesPerSecond: 300 };
    guest = await bootGuest({ name: 'vm', dir: directory.path, disks, load });
  });

  afterEach(async () => {
    await Promise.all(others.map((other) => other.kill()));
    others = [];
    await guest.nextTick();
    expect(await guest.runState()).toBe('running');
    expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0, firstBad: '' });
    expect((await guest.stats()).writeErrors).toBe(0);
    await expectClean(guest);
  });

  afterAll(async () => {
    await guest?.kill();
    await directory?.[Symbol.asyncDispose]();
  });

  function disk(name: string, format: DiskSpec['format'], at = directory.path): Promise<DiskSpec> {
    return createDisk({ file: join(at, name), format, sizeBytes: DISK_BYTES });
  }

  /** What each disk holds, as a file beside it. */
  async function keep(name: string): Promise<readonly string[]> {
    return await Promise.all(
      disks.map(async ({ file, format }, index) => {
        const kept = join(directory.path, `${name}-${index}`);
        await run('qemu-img', ['convert', '-U', '-f', format, '-O', 'raw', file, kept]);
        return kept;
      }),
    );
  }

  async function move(backend: HypervisorBackend, policy: MigrationPolicy = {}) {
    const listening = tcp({ listen: { host: '127.0.0.1', port: 0 } });
    const connecting = tcp({ connect: await listening.listening() });
    const vm = await openQemuSource({ qmp: guest.qmpPath, runtimeDir: directory.path });
    let stunned: readonly string[] = [];
    const watched = withChanges<SourceVm>(vm, {
      stun: async (options) => {
        await vm.stun(options);
        stunned = await keep('stunned');
      },
    });
    const source = createSource({ vm: watched, transport: connecting, register: memoryRegister(), policy });
    const destination = createDestination({ backend, transport: listening, register: memoryRegister() });
    const [sent, received] = await Promise.all([source.run(), destination.run()]);
    await Promise.all([connecting.close(), listening.close()]);
    return { sent, received, stunned };
  }

  it('become images of what they held at the stun, raw and an overlay alike, and are served', async () => {
    const path = join(directory.path, 'export');
    const backend = createImageBackend({ directory: directory.path, export: { path } });
    const { sent, received, stunned } = await move(backend, { memory: 'none' });
    for (const report of [sent, received]) {
      expect(report.error).toBeUndefined();
      expect(report).toMatchObject({ outcome: 'copied', owner: 'source', bytes: { memory: 0, state: 0 } });
    }
    expect(sent.guestWrites.mirrored).toBeGreaterThan(0);
    expect([...backend.images.keys()]).toEqual(['vd0', 'vd1']);
    for (const [index, image] of [...backend.images.values()].entries()) {
      const [copy, kept] = await Promise.all([image, stunned[index] ?? ''].map((file) => readFile(file)));
      expect(copy?.length).toBe(DISK_BYTES);
      expect([index, kept !== undefined && copy?.equals(kept)]).toEqual([index, true]);
      expect(copy?.subarray(64 * MIB, 65 * MIB).equals(pattern(MIB, 1))).toBe(index === 1);
      // What is served is what is there, for whoever starts a guest on it.
      const uri = `nbd+unix:///vd${index}?socket=${path}`;
      await run('qemu-img', ['compare', '-f', 'raw', '-F', 'raw', image, uri]);
    }
    await backend.exported?.close();
  });

  it('go on from what is there: a second copy sends what has changed since', async () => {
    const images = { vd0: join(directory.path, 'vd0.img'), vd1: join(directory.path, 'vd1.img') };
    const backend = createImageBackend({ images, existing: 'use' });
    const { sent, stunned } = await move(backend, {
      memory: 'none',
      seed: 'compare',
      // What has not been compared when its turn comes is sent.
      rateBytesPerSecondMax: 16 * MIB,
    });
    expect(sent.error).toBeUndefined();
    expect(sent).toMatchObject({ outcome: 'copied' });
    expect(sent.bytes.unchanged).toBeGreaterThan(0);
    for (const [index, image] of [...backend.images.values()].entries()) {
      expect((await readFile(image)).equals(await readFile(stunned[index] ?? ''))).toBe(true);
    }
  });

  describe('whose copy died while the guest stood still for it', () => {
    /** A source that is stunned for a copy, and loses its monitor. */
    async function dieStunned(): Promise<void> {
      const qmp = join(directory.path, 'held');
      const monitor = await HeldMonitor.before(guest.qmpPath, qmp, '\0');
      const vm = await openQemuSource({ qmp, runtimeDir: directory.path });
      await tapDisk(vm);
      await vm.stun({ memory: 'none' });
      await monitor[Symbol.asyncDispose]();
      await vm.detach();
      expect(await guest.runState()).toBe('paused');
    }

    it('are of a guest that runs on when it is opened again', async () => {
      await dieStunned();
      const vm = await openQemuSource({ qmp: guest.qmpPath, runtimeDir: directory.path });
      expect([vm.runState(), await guest.runState()]).toEqual(['running', 'running']);
      await vm.detach();
    });

    it('are of a guest that recover() runs on', async () => {
      await dieStunned();
      const vm = await openQemuSource({
        qmp: guest.qmpPath,
        runtimeDir: directory.path,
        recovery: true,
      });
      const { vmId } = vm.description;
      const report = await recover({ role: 'source', vmId, register: memoryRegister(), vm });
      expect(report).toMatchObject({ owner: 'source', action: 'resumed' });
      expect(await guest.runState()).toBe('running');
    });

    it('are of a guest that stays paused if it was before', async () => {
      await guest.qmp('stop');
      await dieStunned();
      const vm = await openQemuSource({ qmp: guest.qmpPath, runtimeDir: directory.path });
      await vm.detach();
      expect(await guest.runState()).toBe('paused');
      await guest.qmp('cont');
    });

    it.each(['resumed', 'let go of'])('are of a guest that runs when it is %s', async (how) => {
      const vm = await openQemuSource({ qmp: guest.qmpPath, runtimeDir: directory.path });
      await vm.stun({ memory: 'none' });
      if (how === 'resumed') {
        await vm.resume();
        await expectUnmarked();
      }
      await vm.detach();
      expect(await guest.runState()).toBe('running');
    });

    async function expectUnmarked(): Promise<void> {
      const nodes = JSON.stringify(await guest.qmp('query-named-block-nodes', { flat: true }));
      expect(nodes).not.toContain('longhaul-run-on');
    }
  });

  // Skipped where no file system can be mounted: there is none then that could run full.
  describe.skipIf(!canMount)('at a QEMU whose images have no room', () => {
    async function receiving(
      at: string,
    ): Promise<(options?: Partial<QemuBackendOptions>) => HypervisorBackend> {
      const name = `o${others.length}`;
      const there = [await disk('b0', 'qcow2', at), await disk('b1', 'qcow2', at)];
      const other = await bootGuest({ name, dir: directory.path, disks: there, incoming: true });
      others.push(other);
      return (options) => createQemuBackend({ qmp: other.qmpPath, runtimeDir: directory.path, ...options });
    }

    it('are refused before a byte is copied, with the figures', async () => {
      using small = mountSmall(16 * MIB);
      const backend = (await receiving(small.path))();
      const { sent, received } = await move(backend);
      for (const report of [sent, received]) {
        expect(report).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'disk-full' } });
        expect(report.error?.message).toMatch(
          /\d+ bytes are free, and \d+ are needed \(disk vd0 \d+ bytes, disk vd1 \d+ bytes\)/,
        );
        expect(report.bytes).toMatchObject({ disk: 0, memory: 0 });
      }
    });

    it('end the migration where that could not be known, at both ends, and the guest runs on', async () => {
      using small = mountSmall(16 * MIB);
      const backend = (await receiving(small.path))({ freeSpace: 'ignore' });
      const { sent, received } = await move(backend);
      for (const report of [sent, received]) {
        expect(report).toMatchObject({ outcome: 'failed', owner: 'source', error: { code: 'disk-full' } });
      }
      expect(sent.error).toMatchObject({ guest: 'running' });
      expect(readdirSync(small.path).sort()).toEqual(['b0', 'b1']);
    });
  });
});
