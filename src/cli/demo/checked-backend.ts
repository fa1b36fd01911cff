import { setTimeout as delay } from 'node:timers/promises';
import { compareVms, createMemoryBackend, type VmComparison } from '../../backends/memory/index.ts';
import { type DestinationVm, type HypervisorBackend, MigrationError } from '../../index.ts';
import { formatBytes } from '../units.ts';
import type { GuestPair } from './guest-pair.ts';

/** A destination that compares before it starts. */
export interface CheckedBackend extends HypervisorBackend {
  /** What the comparison found; undefined before it was made. */
  readonly comparison: VmComparison | undefined;
}

/**
 * A backend that prepares `destination`, and starts it only if its memory and disks equal the source's, byte for byte. There is one moment at
 * which the two can be compared soundly: the guest is stunned at the source, everything has been written and the device state loaded at the destination, and
 * the guest has not run there. The comparison is made while READY and GO are on their way, so that it costs little downtime. If it finds a
 * difference, `start()` rejects with `internal`.
 */
export function checkedBackend({ source, destination }: GuestPair): CheckedBackend {
  const backend = createMemoryBackend({ vm: destination });
  let comparison: VmComparison | undefined;

  const check = (vm: DestinationVm): DestinationVm => {
    let compared: Promise<VmComparison> | undefined;
    return {
      memory: vm.memory,
      disks: vm.disks,
      async loadDeviceState(state, options) {
        await vm.loadDeviceState(state, options);
        compared = delay(0).then(() => compareVms(source, destination));
      },
      async start(options) {
        comparison = await compared;
        if (comparison?.equal !== true) {
          const { memoryBytes = 0, diskBytes = 0 } = comparison ?? {};
          const message = `the copy differs: ${formatBytes(memoryBytes)} of memory, ${formatBytes(diskBytes)} of disks`;
          throw new MigrationError('internal', message);
        }
        await vm.start(options);
      },
      discard: () => vm.discard(),
    };
  };

  return {
    name: backend.name,
    prepare: async (description, options) => check(await backend.prepare(description, options)),
    get comparison() {
      return comparison;
    },
  };
}
