/** A guest under load in a QEMU that is a source over and over, for the files that test that. */
import { readdir } from 'node:fs/promises';
import { join } from 'node:path';
import { afterAll, beforeAll, expect } from 'vitest';
import { openQemuSource, type QemuSourceOptions } from '../../../src/backends/qemu/index.ts';
import type { MigrationError } from '../../../src/errors.ts';
import type { GuestWrite, Tap } from '../../../src/interfaces/block-device.ts';
import type { SourceVm } from '../../../src/interfaces/hypervisor.ts';
import { expectClean, type MigrationSettingsSeen, migrationSettings } from './clean.ts';
import { bootGuest, createDisk, type DiskSpec, type Guest, type GuestLoad, guestDirectory } from './guest.ts';

const MIB = 1024 * 1024;

/** A tap that takes in what comes. */
export interface CollectingTap {
  readonly tap: Tap;
  readonly writes: readonly GuestWrite[];
  readonly broken: readonly MigrationError[];
}

/** One guest for a whole file, because it survives all that is done to it: that is what is tested. */
export class SourceFixture {
  #directory: ReturnType<typeof guestDirectory> | undefined;
  #guest: Guest | undefined;
  #settings: MigrationSettingsSeen | undefined;
  #others = 0;

  /** Boots it before the tests of the suite in which this is called, and ends it after them. */
  constructor(load: GuestLoad = {}) {
    beforeAll(async () => {
      this.#directory = guestDirectory();
      const disks = await this.disks('a');
      this.#guest = await bootGuest({ name: 'vm', dir: this.path, disks, load });
      this.#settings = await migrationSettings(this.#guest);
    });
    afterAll(async () => {
      await this.#guest?.kill();
      await this.#directory?.[Symbol.asyncDispose]();
    });
  }

  get path(): string {
    if (this.#directory === undefined) throw new Error('no directory yet');
    return this.#directory.path;
  }

  get guest(): Guest {
    if (this.#guest === undefined) throw new Error('no guest yet');
    return this.#guest;
  }

  /** A name that was not used yet. */
  name(): string {
    return `o${this.#others++}`;
  }

  /** A raw and a qcow2 disk. */
  async disks(name: string): Promise<DiskSpec[]> {
    const disk = (suffix: string, format: DiskSpec['format']): Promise<DiskSpec> =>
      createDisk({ file: join(this.path, `${name}${suffix}`), format, sizeBytes: 128 * MIB });
    return [await disk('0', 'raw'), await disk('1', 'qcow2')];
  }

  open(options: Partial<QemuSourceOptions> = {}): Promise<SourceVm> {
    return openQemuSource({ qmp: this.guest.qmpPath, runtimeDir: this.path, ...options });
  }

  /** A QEMU that can take the guest. */
  async destination(): Promise<Guest> {
    const name = this.name();
    return bootGuest({ name, dir: this.path, disks: await this.disks(name), incoming: true });
  }

  /** The guest runs, has lost nothing, and its QEMU is as it was before anybody came. */
  async expectUnharmed(): Promise<void> {
    await this.guest.nextTick();
    expect(await this.guest.runState()).toBe('running');
    expect(await this.guest.verify()).toMatchObject({ badPages: 0, badBlocks: 0 });
    expect((await this.guest.stats()).writeErrors).toBe(0);
    await expectClean(this.guest);
    expect(await migrationSettings(this.guest)).toEqual(this.#settings);
    expect(await this.privateDirectories()).toEqual([]);
  }

  /** Directories that an open source has made. */
  async privateDirectories(): Promise<readonly string[]> {
    return (await readdir(this.path)).filter((name) => name.startsWith('longhaul-'));
  }
}

/** Taps a disk, and takes in what comes; `onBroken` is told at once. */
export async function tapDisk(vm: SourceVm, index = 0, onBroken?: () => void): Promise<CollectingTap> {
  const writes: GuestWrite[] = [];
  const broken: MigrationError[] = [];
  const disk = vm.disks[index];
  if (disk === undefined) throw new Error('no such disk');
  const tap = await disk.tap({
    write: (write) => {
      writes.push(write);
    },
    invalidate: () => {},
    broken: (error) => {
      broken.push(error);
      onBroken?.();
    },
  });
  return { tap, writes, broken };
}
