/**
 * Goal: a QEMU is what the engine takes a hypervisor for. Method: the compliance suites on a real guest,
 * which survives most of what is done to it and is booted again where it does not. The suites' own writes
 * come from `qemu-io`, which writes to a disk as the guest's device does, where the guest itself does not;
 * memory is dirtied by the guest's workload, and looked at by QEMU.
 */
import { readFile, rm } from 'node:fs/promises';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { afterAll, describe, test } from 'vitest';
import { createQemuBackend, openQemuSource } from '../../src/backends/qemu/index.ts';
import type { RunState, SourceVm } from '../../src/interfaces/hypervisor.ts';
import {
  type BackendFixture,
  type BlockDeviceFixture,
  backendCompliance,
  blockDeviceCompliance,
  type DestinationFixture,
  type GuestDisk,
  type MemorySourceFixture,
  memorySourceCompliance,
  type SourceDiskFixture,
  sourceDiskCompliance,
} from '../../src/testing/index.ts';
import { bootGuest, createDisk, type Guest, guestDirectory, qemuAvailable } from './support/guest.ts';

const MIB = 1024 * 1024;
const DISK_BYTES = 32 * MIB;
/** Behind all that the guest's workload uses of its disk. */
const SCRATCH = { offset: 24 * MIB, length: MIB };
const MEMORY_MIB = 128;
const LOAD = { memoryMiB: 16, memoryHotMiB: 4, writesPerSecond: 50, hotMiB: 8, fillMiB: 4 };

const qemu = qemuAvailable();
const suite = qemu.available ? 'QEMU' : `QEMU (skipped: ${qemu.why})`;

/** The guest that the suites share, and everything else that was started. */
class Lab {
  readonly #directory = guestDirectory();
  #names = 0;
  #guest: Guest | undefined;
  #ended = false;
  #inUse = false;

  get path(): string {
    return this.#directory.path;
  }

  name(): string {
    this.#names += 1;
    return `g${this.#names}`;
  }

  /** The guest, booted if it is not there any more, or if a test before left it in use. */
  async guest(): Promise<Guest> {
    if (this.#inUse) await this.#guest?.kill();
    this.#inUse = true;
    if (this.#guest === undefined || this.#ended) {
      const guest = await this.boot(false);
      this.#guest = guest;
      this.#ended = false;
      void guest.exited.then(() => {
        if (this.#guest === guest) this.#ended = true;
      });
    }
    return this.#guest;
  }

  /** A guest that powered off, was moved or was left half-way is no good to the next test. */
  async giveBack(): Promise<void> {
    this.#inUse = false;
    const state = this.#ended ? 'ended' : await this.#guest?.runState().catch(() => 'ended');
    if (state === 'running') return;
    await this.#guest?.kill();
    this.#guest = undefined;
  }

  async boot(incoming: boolean): Promise<Guest> {
    const name = this.name();
    const disk = await createDisk({
      file: join(this.path, `${name}.img`),
      format: 'raw',
      sizeBytes: DISK_BYTES,
    });
    return bootGuest({ name, dir: this.path, disks: [disk], memoryMiB: MEMORY_MIB, load: LOAD, incoming });
  }

  async close(): Promise<void> {
    await this.#guest?.kill();
    await this.#directory[Symbol.asyncDispose]();
  }
}

/** Writes by a guest's own device, but for the guest. */
function guestDisk(guest: Guest): GuestDisk {
  const io = async (command: string): Promise<void> => {
    const line = `qemu-io -d /machine/peripheral/vd0/virtio-backend "${command}"`;
    const said = await guest.qmp('human-monitor-command', { 'command-line': line });
    if (said !== '') throw new Error(String(said));
  };
  return {
    scratch: SCRATCH,
    // QEMU's monitor waits for each of them.
    concurrent: false,
    write: (offset, length, fill) => io(`write -q -P ${fill} ${offset} ${length}`),
    zero: (offset, length) => io(`write -q -z ${offset} ${length}`),
  };
}

// A machine without QEMU 9 or the built guest cannot run these: setup-qemu.sh gets both where it is root on
// Debian or Ubuntu, and elsewhere QEMU may well be missing. The suite's name says what was.
describe.skipIf(!qemu.available)(suite, { timeout: 20_000 }, () => {
  const lab = new Lab();
  afterAll(() => lab.close());
  const settle = () => sleep(50);

  const open = (guest: Guest, recovery = false): Promise<SourceVm> =>
    openQemuSource({ qmp: guest.qmpPath, runtimeDir: lab.path, quitOnRelease: false, recovery });

  async function diskFixture(): Promise<SourceDiskFixture> {
    const guest = await lab.guest();
    const vm = await open(guest);
    const [disk] = vm.disks;
    if (disk === undefined) throw new Error('the guest has no disk');
    return {
      vm,
      disk,
      guest: guestDisk(guest),
      breakTap: async () => {
        // Not by cancelling its job: QEMU 10.0 crashes now and then where that is forced (see `cancelMirror`).
        await guest.qmp('yank', { instances: [{ type: 'block-node', 'node-name': 'longhaul-tap-0' }] });
      },
      settle,
      close: async () => {
        await vm.detach();
        await lab.giveBack();
      },
    };
  }

  async function memoryFixture(): Promise<MemorySourceFixture> {
    const guest = await lab.guest();
    const vm = await open(guest);
    const memory: MemorySourceFixture['guest'] = {
      dirty: async () => {
        const { pagesDirtied } = await guest.stats();
        while ((await guest.stats()).pagesDirtied === pagesDirtied);
      },
      read: async (region, offset, length) => {
        // The rest is firmware and video memory.
        if (vm.memory.regions[region]?.name !== 'pc.ram') return undefined;
        const file = join(lab.path, 'memory');
        await guest.qmp('pmemsave', { val: offset, size: length, filename: file });
        const bytes = await readFile(file);
        await rm(file);
        return bytes;
      },
    };
    return {
      vm,
      guest: memory,
      close: async () => {
        await vm.detach();
        await lab.giveBack();
      },
    };
  }

  async function destination(): Promise<DestinationFixture> {
    const guest = await lab.boot(true);
    return {
      backend: createQemuBackend({ qmp: guest.qmpPath, runtimeDir: lab.path }),
      runState: async (): Promise<RunState | 'none'> => {
        const state = await guest.runState();
        if (state === 'inmigrate') return 'none';
        return state === 'running' ? 'running' : 'paused';
      },
      verify: async () => {
        const { badPages, badBlocks, firstBad } = await guest.verify();
        if (badPages + badBlocks > 0) throw new Error(firstBad);
      },
      close: () => guest.kill(),
    };
  }

  async function backendFixture(): Promise<BackendFixture> {
    const guest = await lab.guest();
    const opened: SourceVm[] = [];
    const source = async (recovery = false): Promise<SourceVm> => {
      const vm = await open(guest, recovery);
      opened.push(vm);
      return vm;
    };
    return {
      source: () => source(),
      recover: () => source(true),
      control: {
        pause: async () => void (await guest.qmp('stop')),
        run: async () => void (await guest.qmp('cont')),
        powerOff: async () => void (await guest.command('poweroff')),
        kill: () => guest.kill(),
      },
      destination,
      settle,
      close: async () => {
        for (const vm of opened) await vm.detach();
        await lab.giveBack();
      },
    };
  }

  async function preparedDisk(): Promise<BlockDeviceFixture> {
    const { vm, close } = await diskFixture();
    const there = await destination();
    const prepared = await there.backend.prepare(vm.description);
    const [disk] = prepared.disks;
    if (disk === undefined) throw new Error('no disk was prepared');
    return {
      disk,
      close: async () => {
        await prepared.discard();
        await there.close();
        await close();
      },
    };
  }

  describe('a disk of a prepared VM', () => blockDeviceCompliance({ test, create: preparedDisk }));
  describe('a disk of a running VM', () => sourceDiskCompliance({ test, create: diskFixture }));
  describe('the memory of a running VM', () => memorySourceCompliance({ test, create: memoryFixture }));
  describe('the backend', () => backendCompliance({ test, create: backendFixture }));
});
