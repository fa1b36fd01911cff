/**
 * Goal: a disk that does not show each write arrives whole after a switchover that failed: what its dirty log told is copied again, whatever became of
 * the switchover that asked it, and of a disk that tells nothing all is. Method: the real engine in virtual time, a guest that
 * writes just before it is stunned, and a first take within that stun that comes late, or fails with its marks cleared; the disk that arrives is compared byte by byte.
 */
import { afterEach, expect, it } from 'vitest';
import { createMemoryVm, type MemoryVm } from '../../../src/backends/memory/index.ts';
import {
  MigrationError,
  type MigrationPolicy,
  type SourceDisk,
  type SourceVm,
  type TapCapability,
} from '../../../src/index.ts';
import { delay } from '../../../src/util/promises.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';
import { mebibyte, withChanges } from '../../support/worlds.ts';
import { move } from './shape-world.ts';

const vms: MemoryVm[] = [];
afterEach(() => {
  for (const vm of vms.splice(0)) vm.destroy();
});

/** The ranges that were taken, and not told in time. */
type Take = (
  ranges: Promise<readonly { offset: number; length: number }[]>,
) => ReturnType<() => typeof ranges>;

/** A VM that writes just before its first stun, and whose first take in it goes `through`. */
function atFirstStun(guest: MemoryVm, vm: SourceVm, through: Take): SourceVm {
  let stunned = false;
  let done = false;
  const disks = vm.disks.map((disk) =>
    withChanges<SourceDisk>(disk, {
      track: async (options) => {
        const tracker = await disk.track(options);
        return {
          remove: () => tracker.remove(),
          take: (call) => {
            const taking = tracker.take(call);
            if (!stunned || done) return taking;
            done = true;
            return through(Promise.resolve(taking));
          },
        };
      },
    }),
  );
  return withChanges<SourceVm>(vm, {
    disks,
    stun: async (options) => {
      // What it writes last, and never again.
      if (!stunned) await guest.guest.writeDisk('disk0', 3 * mebibyte, new Uint8Array(8192).fill(7));
      await vm.stun(options);
      stunned = true;
    },
  });
}

/** Moves a VM whose first switchover fails, and compares its disk with what it was when the guest was stunned last. */
async function moved(
  tap: TapCapability,
  policy: MigrationPolicy,
  failing: (guest: MemoryVm, vm: SourceVm, environment: VirtualEnvironment) => SourceVm,
): Promise<void> {
  const environment = createVirtualEnvironment();
  const vm = createMemoryVm({
    vmId: 'vm-1',
    memoryBytes: mebibyte,
    disks: [{ id: 'disk0', sizeBytes: 4 * mebibyte, tap, allocatedFraction: 1 }],
    environment,
  });
  vms.push(vm);
  const { source, destination, backend, atTheStun } = await move({
    environment,
    vm,
    policy,
    sourceVm: (inner) => failing(vm, inner, environment),
  });
  expect(source.error).toBeUndefined();
  expect(source).toMatchObject({ outcome: 'completed', switchoverAttempts: 2 });
  expect(destination.outcome).toBe('completed');
  const arrived = backend.vm?.disk('disk0').medium.read(0, 4 * mebibyte) ?? new Uint8Array();
  expect(Buffer.compare(arrived, atTheStun.get('disk0') ?? new Uint8Array())).toBe(0);
  backend.vm?.destroy();
}

it('a disk that tells nothing is copied again as a whole', () =>
  moved('none', { copyWhileStunned: true }, (guest, vm, environment) => {
    let saves = 0;
    return withChanges<SourceVm>(vm, {
      saveDeviceState: async function* (options) {
        saves += 1;
        if (saves > 1) return yield* vm.saveDeviceState(options);
        // The disk is copied meanwhile.
        await delay(environment, 1000);
        throw new MigrationError('device-state', 'as the test wants it');
      },
      resume: async () => {
        await vm.resume();
        await guest.guest.writeDisk('disk0', 3 * mebibyte, new Uint8Array(8192).fill(7));
      },
    });
  }));

it('what was taken too late, after the switchover was given up', () =>
  moved('extents', { stunMsMax: 200 }, (guest, vm, environment) =>
    atFirstStun(guest, vm, async (ranges) => {
      const late = await ranges;
      await delay(environment, 500);
      return late;
    }),
  ));

it('what a take had cleared when it failed', () =>
  moved('extents', { stunMsMax: 200 }, (guest, vm) =>
    atFirstStun(guest, vm, async (ranges) => {
      await ranges;
      throw new MigrationError('hypervisor', 'as the test wants it');
    }),
  ));
