import {
  createDestination,
  createSource,
  type Environment,
  type MemoryLinkOptions,
  type MigrationPolicy,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type SourceDisk,
  type SourceVm,
  type WriteTimes,
} from '../../../src/index.ts';
import { compareSimulatedVms } from '../../../src/testing/sim/compare.ts';
import type { SimulatedDiskOptions } from '../../../src/testing/sim/disk.ts';
import { createSimulatedBackend } from '../../../src/testing/sim/hypervisor.ts';
import { createSimulatedVm, type SimulatedVm } from '../../../src/testing/sim/vm.ts';
import type { SimulatedWorkload } from '../../../src/testing/sim/workloads.ts';
import { createPrng } from '../../../src/util/prng.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { withChanges } from '../../support/worlds.ts';

export const mebibyte = 1 << 20;
const ioBytes = 8192;

/** Writes of 8 KiB, at even times, in one stretch of the first disk. */
export interface PlacedWriter {
  readonly offset: number;
  readonly bytes: number;
  readonly perSecond: number;
  /** Default: at places drawn at random; else one behind the other, and no more after the last. */
  readonly once?: boolean;
}

export interface CopiedOptions {
  readonly disks: readonly SimulatedDiskOptions[];
  readonly workloads?: readonly SimulatedWorkload[];
  /** What the guest writes beside them, from 0 ms on. */
  readonly writes?: readonly PlacedWriter[];
  readonly link?: MemoryLinkOptions;
  readonly policy?: MigrationPolicy;
  /** How long the guest runs before it is migrated, in ms. Default 2000. */
  readonly beforeMs?: number;
  /** Whether its hypervisor tells what writes take. Default true. */
  readonly tells?: boolean;
}

/** How a VM with disks and next to no memory was moved. */
export interface Copied {
  readonly source: MigrationReport;
  /** Whether all was equal, when the guest ran on. */
  readonly equal: boolean | undefined;
  /** How long the disks were copied, in ms. */
  readonly copyMs: number;
  /** What a write to the first disk took on the average before the migration, and while its disks were copied, in ms. */
  readonly beforeMs: number;
  readonly duringMs: number;
  /** How many writes to it there were in that time, of 8 KiB each. */
  readonly writes: number;
}

/** Moves a simulated VM in virtual time, and looks at how its guest fares meanwhile. */
export async function copied(options: CopiedOptions): Promise<Copied> {
  const { disks, workloads = [], writes = [], link, policy = {}, beforeMs = 2000, tells = true } = options;
  const environment = createVirtualEnvironment(1);
  const vm = createSimulatedVm({
    environment,
    vmId: 'vm',
    memory: { sizeBytes: mebibyte },
    disks,
    workloads,
    check: 'stamp',
  });
  let equal: boolean | undefined;
  const backend = createSimulatedBackend({
    environment,
    check: 'stamp',
    observe: ({ kind }) => {
      const there = backend.vms.at(-1);
      if (kind === 'started' && there !== undefined) equal = compareSimulatedVms(vm, there).equal;
    },
  });
  const attached = vm.attachSource();
  for (const writer of writes) write(environment, vm, disks[0]?.id ?? '', writer);
  await environment.run(beforeMs);
  const ends = memoryLink({ environment, ...link });
  const [disk] = attached.disks;
  const before = await disk?.writeTimes();
  let after = before;
  const source = createSource({
    vm: tells ? attached : untold(attached),
    transport: ends.source,
    register: memoryRegister(),
    policy,
    environment,
  });
  source.on('phase', async (phase) => {
    if (phase === 'copyMemory' && after === before) after = await disk?.writeTimes();
  });
  const destination = createDestination({
    backend,
    transport: ends.destination,
    register: memoryRegister(),
    environment,
  });
  const running = Promise.all([source.run(), destination.run()]);
  const [report] = await environment.run(running);
  const times = (last: WriteTimes | undefined, first: WriteTimes | undefined) => ({
    writes: (last?.writes ?? 0) - (first?.writes ?? 0),
    totalMs: (last?.totalMs ?? 0) - (first?.totalMs ?? 0),
  });
  const during = times(after, before);
  return {
    source: report,
    equal,
    copyMs: report.phases.copyDisks ?? 0,
    beforeMs: meanMs(times(before, undefined)),
    duringMs: meanMs(during),
    writes: during.writes,
  };
}

function meanMs({ writes, totalMs }: WriteTimes): number {
  return writes === 0 ? 0 : totalMs / writes;
}

/** Lets a guest write until it stands still. */
function write(environment: Environment, vm: SimulatedVm, disk: string, writer: PlacedWriter): void {
  const prng = createPrng(7);
  const places = Math.floor(writer.bytes / ioBytes);
  let done = 0;
  const step = () => {
    const place = writer.once === true ? done : prng.below(places);
    done++;
    if (vm.state === 'running')
      vm.guest.writeDisk(disk, writer.offset + place * ioBytes, ioBytes).catch(() => {});
    if (writer.once !== true || done < places) environment.setTimer(1000 / writer.perSecond, step);
  };
  step();
}

/** The same VM on a hypervisor that does not tell what writes take. */
function untold(vm: SourceVm): SourceVm {
  const disks = vm.disks.map((disk): SourceDisk => withChanges(disk, { writeTimes: async () => undefined }));
  return withChanges(vm, { disks });
}
