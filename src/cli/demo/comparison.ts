import { setTimeout as delay } from 'node:timers/promises';
import { compareVms, createMemoryBackend, type VmComparison } from '../../backends/memory/index.ts';
import type { Chunks, DestinationVm, HypervisorBackend } from '../../index.ts';
import { diskId, type GuestPair, hotBytes } from './guest-pair.ts';

/**
 * Compares the two ends of the demonstration, byte for byte, as they were in the one moment at which they
 * must be equal: the guest stunned at the source, where it never runs again, and not yet started at the
 * destination.
 *
 * Comparing takes longer than the downtime may be, so at that moment only what the guest can change is
 * copied, while READY and GO are on their way and nobody else has anything to do. Later the guest is paused,
 * its changes are undone with the copy, and everything is compared. Had it written elsewhere, that would show
 * as a difference.
 */
export class Comparison {
  /** Prepares the pair's destination, and takes the copy. */
  readonly backend: HypervisorBackend;
  readonly #pair: GuestPair;
  #memory: Buffer = Buffer.alloc(hotBytes.memory, 1);
  #disk: Chunks = [];

  constructor(pair: GuestPair) {
    this.#pair = pair;
    const backend = createMemoryBackend({ vm: pair.destination });
    this.backend = {
      name: backend.name,
      prepare: async (description, options) => this.#copying(await backend.prepare(description, options)),
    };
  }

  /** Pauses the guest at the destination for good, and compares. To be called once it was started there. */
  async finish(): Promise<VmComparison> {
    const { source, destination } = this.#pair;
    await destination.pause();
    destination.memory.put({ region: 0, offset: 0, length: hotBytes.memory, content: [this.#memory] });
    await destination.disk(diskId).write(0, this.#disk);
    return compareVms(source, destination);
  }

  #copy(): void {
    const { destination } = this.#pair;
    this.#memory = destination.memory.read(0, 0, hotBytes.memory);
    this.#disk = [destination.disk(diskId).medium.read(0, hotBytes.disk)];
  }

  #copying(vm: DestinationVm): DestinationVm {
    const copy = () => this.#copy();
    let copied: Promise<void> | undefined;
    return {
      capabilities: vm.capabilities,
      memory: vm.memory,
      disks: vm.disks,
      refill: () => vm.refill(),
      handOver: () => vm.handOver(),
      async loadDeviceState(state, options) {
        await vm.loadDeviceState(state, options);
        copied = delay(0).then(copy);
      },
      async start(options) {
        await copied;
        await vm.start(options);
      },
      discard: () => vm.discard(),
    };
  }
}
