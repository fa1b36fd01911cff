/**
 * Goal: the audit reads both QEMUs, finds what is wrong there and nothing else, and costs little. Method: a real guest under load moves with the whole engine over
 * TCP on this machine; everything is compared, ROM and video memory too. Then its feed keeps pages to itself.
 */
import { join } from 'node:path';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { GuestMemoryReader } from '../../src/backends/qemu/guest-memory-reader.ts';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import { PrivateDirectory } from '../../src/backends/qemu/private-directory.ts';
import { QmpClient } from '../../src/backends/qemu/qmp.ts';
import { readInventory, regionsOf } from '../../src/backends/qemu/vm-inventory.ts';
import {
  createDestination,
  createSource,
  type MigrationPolicy,
  memoryRegister,
  type SourceVm,
} from '../../src/index.ts';
import { tcp } from '../../src/transports/index.ts';
import { withoutPages } from '../support/cheats.ts';
import { withChanges } from '../support/worlds.ts';
import { bootGuest, createDisk, type Guest, guestDirectory, qemuAvailable } from './support/guest.ts';

const MIB = 1024 * 1024;
/** Three quarters of the guest's memory: in any second its workload writes there, wherever its kernel put it. */
const hidden = { firstPage: 4096, pages: 24 * 1024 };
const qemu = qemuAvailable();
const suite = qemu.available ? 'an audit of two QEMUs' : `an audit of two QEMUs (skipped: ${qemu.why})`;

// A machine without QEMU 9 or the built guest cannot run these; the suite's name says what was missing.
describe.skipIf(!qemu.available)(suite, { timeout: 120_000 }, () => {
  const directory = guestDirectory();
  const guests = new Set<Guest>();
  let guest: Guest;
  let count = 0;

  async function boot(incoming: boolean): Promise<Guest> {
    const name = `g${count++}`;
    const disks = await Promise.all(
      (['raw', 'qcow2'] as const).map((format) =>
        createDisk({ file: join(directory.path, `${name}.${format}`), format, sizeBytes: 64 * MIB }),
      ),
    );
    const made = await bootGuest({ name, dir: directory.path, disks, memoryMiB: 128, incoming });
    guests.add(made);
    return made;
  }

  /** The guest moves on to a new QEMU, from the one that has it. */
  async function move(policy: MigrationPolicy, cheat: (vm: SourceVm) => SourceVm = (vm) => vm) {
    const there = await boot(true);
    const listening = tcp({ listen: { host: '127.0.0.1', port: 0 } });
    const connecting = tcp({ connect: await listening.listening() });
    const vm = await openQemuSource({ qmp: guest.qmpPath, runtimeDir: directory.path, vmId: 'vm' });
    const source = createSource({ vm: cheat(vm), transport: connecting, register: memoryRegister(), policy });
    const destination = createDestination({
      backend: createQemuBackend({ qmp: there.qmpPath, runtimeDir: directory.path }),
      transport: listening,
      register: memoryRegister(),
    });
    const retreats: string[] = [];
    source.on('retreat', ({ error }) => retreats.push(error.message));
    const [sent, received] = await Promise.all([source.run(), destination.run()]);
    await Promise.all([connecting.close(), listening.close()]);
    expect(sent.error).toBeUndefined();
    expect(sent).toMatchObject({ outcome: 'completed' });
    expect(sent.audit).toEqual(received.audit);
    guest = there;
    expect(await guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0, firstBad: '' });
    return { sent, received, retreats };
  }

  beforeAll(async () => {
    guest = await boot(false);
  }, 120_000);
  afterAll(async () => {
    await Promise.all([...guests].map((one) => one.kill()));
    await directory[Symbol.asyncDispose]();
  });

  it('of everything finds no difference, in no block of RAM and on no disk', async () => {
    const { sent, retreats } = await move({ audit: 'full' });
    expect(retreats).toEqual([]);
    expect(sent.audit.differing).toBe(0);
    expect(sent.audit.bytes).toBeGreaterThan(2 * 64 * MIB);
  });

  it('of a sample says how much it was', async () => {
    const { sent, retreats } = await move({});
    expect(retreats).toEqual([]);
    expect(sent.audit).toMatchObject({ mode: 'sample', differing: 0 });
    expect(sent.audit.units).toBeGreaterThan(16);
  });

  it('finds pages that its QEMU kept to itself; all of memory is sent again, and it arrives', async () => {
    const { sent, retreats } = await move({ audit: 'full' }, (vm) => {
      const region = vm.description.memory.findIndex(({ sizeBytes }) => sizeBytes === 128 * MIB);
      return withChanges<SourceVm>(vm, {
        memory: withoutPages(vm.memory, { region, ...hidden, again: true }),
      });
    });
    expect(retreats).toHaveLength(1);
    expect(sent.switchoverAttempts).toBe(2);
  });

  it('reads the same by either way', async () => {
    await guest.qmp('stop');
    const qmp = await QmpClient.connect(guest.qmpPath);
    const private_ = await PrivateDirectory.create(directory.path);
    try {
      const regions = regionsOf((await readInventory(qmp)).ramBlocks);
      const region = regions.findIndex(({ sizeBytes }) => sizeBytes === 128 * MIB);
      const ranges = Array.from({ length: 64 }, (_, index) => ({
        region,
        offset: index * 2 * MIB + (index % 3) * 4096,
        length: 4096 << (index % 5),
      }));
      const process = new GuestMemoryReader({ qmp, directory: private_, regions });
      const locked = withChanges<QmpClient>(qmp, {
        execute: (command, ...rest) =>
          command === 'query-cpus-fast' ? Promise.reject(new Error('no')) : qmp.execute(command, ...rest),
      });
      const saved = new GuestMemoryReader({ qmp: locked, directory: private_, regions });
      expect([await process.way(), await saved.way()]).toEqual(['process', 'pmemsave']);
      const [one, other] = [await process.read(ranges), await saved.read(ranges)];
      // What is below 1 MiB is not where QEMU saves it for certain.
      expect(other[0]).toBeUndefined();
      for (const [index, content] of other.entries()) {
        if (index > 0)
          expect([index, content && Buffer.concat(content)]).toEqual([
            index,
            Buffer.concat(one[index] ?? []),
          ]);
      }
      await expect(process.read([{ region, offset: 128 * MIB, length: 4096 }])).rejects.toMatchObject({
        code: 'memory',
      });
      process.close();
      saved.close();
    } finally {
      await qmp.close();
      await private_.remove();
      await guest.qmp('cont');
    }
  });
});
