/** One migration of a VM of any shape, in virtual time, with a guest that writes as no filesystem would. */
import {
  createMemoryBackend,
  type MemoryBackend,
  type MemoryBackendOptions,
  type MemoryVm,
} from '../../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type MemoryLinkOptions,
  type MigrationPolicy,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type SourceVm,
} from '../../../src/index.ts';
import { createPrng } from '../../../src/util/prng.ts';
import { delay } from '../../../src/util/promises.ts';
import type { VirtualEnvironment } from '../../support/virtual-environment.ts';
import { withChanges } from '../../support/worlds.ts';

export interface MoveOptions {
  readonly environment: VirtualEnvironment;
  readonly vm: MemoryVm;
  readonly policy?: MigrationPolicy;
  readonly backend?: MemoryBackendOptions;
  readonly link?: MemoryLinkOptions;
  readonly sourceVm?: (vm: SourceVm) => SourceVm;
}

export interface Moved {
  readonly source: MigrationReport;
  readonly destination: MigrationReport;
  /** What arrived stays paused. */
  readonly backend: MemoryBackend;
  /** What each disk of the source held when its guest was stunned last, by its id. */
  readonly atTheStun: ReadonlyMap<string, Uint8Array>;
}

/** Moves a VM, or its disks. */
export async function move(options: MoveOptions): Promise<Moved> {
  const { environment, vm } = options;
  const backend = createMemoryBackend({ environment, startPaused: true, ...options.backend });
  const link = memoryLink({ rttMs: 4, rateMbit: 1000, ...options.link, environment });
  const atTheStun = new Map<string, Uint8Array>();
  const inner = options.sourceVm?.(vm.source()) ?? vm.source();
  const source = createSource({
    vm: withChanges<SourceVm>(inner, {
      stun: async (call) => {
        await inner.stun(call);
        for (const { id, sizeBytes, medium } of vm.disks) atTheStun.set(id, medium.read(0, sizeBytes));
      },
    }),
    transport: link.source,
    register: memoryRegister(),
    policy: { connectMsMax: 5000, decideMsMax: 1000, ...options.policy },
    environment,
  });
  const destination = createDestination({
    backend,
    transport: link.destination,
    register: memoryRegister(),
    environment,
  });
  const [sourceReport, destinationReport] = await environment.run(
    Promise.all([source.run(), destination.run()]),
  );
  await environment.run(Promise.all([link.source.close(), link.destination.close()]));
  return { source: sourceReport, destination: destinationReport, backend, atTheStun };
}

/** What a {@link restlessGuest} has done. */
export interface Restless {
  writes: number;
  failed: number;
  /** It writes nothing more. Resolves when nothing of it is on its way. */
  stop(): Promise<void>;
}

/**
 * Writes of any length at any place, several at once and over each other, among them zeros and discards; some fail at the source, and leave half of themselves
 * on the disk. It goes on until it is stopped, or the guest is gone.
 */
export function restlessGuest(
  vm: MemoryVm,
  environment: VirtualEnvironment,
  { seed = 1, atOnce = 4, failing = false, pauseMsMax = 4 } = {},
): Restless {
  const disks = vm.disks.filter(({ readOnly }) => !readOnly);
  const prng = createPrng(seed);
  let stopped = false;
  const act = async (): Promise<void> => {
    const disk = disks[prng.below(disks.length)];
    if (disk === undefined) return;
    const { id, sizeBytes } = disk;
    const offset = prng.below(sizeBytes);
    const length = 1 + prng.below(Math.min(sizeBytes - offset, 30_000));
    const kind = prng.below(10);
    if (kind === 0) return vm.guest.writeZeroes(id, offset, length);
    // Now and then all that is behind: steps in which memory is taken are freed by it.
    if (kind === 1) return vm.guest.discard(id, offset, prng.below(20) === 0 ? sizeBytes - offset : length);
    if (kind === 2 && failing) disk.failNextWrite(prng.below(length));
    const bytes = new Uint8Array(length);
    prng.fill(bytes);
    return vm.guest.writeDisk(id, offset, bytes);
  };
  const workers = Array.from({ length: atOnce }, async () => {
    while (!stopped && vm.state !== 'released' && vm.state !== 'gone') {
      await act().then(
        () => {
          guest.writes += 1;
        },
        () => {
          guest.failed += 1;
        },
      );
      await delay(environment, 1 + prng.below(pauseMsMax));
    }
  });
  const guest: Restless = {
    writes: 0,
    failed: 0,
    stop: async () => {
      stopped = true;
      await Promise.all(workers);
    },
  };
  return guest;
}
