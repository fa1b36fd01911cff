import { createDestination, createSource, type MigrationReport, memoryRegister } from '../../src/index.ts';
import { compareSimulatedVms } from '../../src/testing/sim/compare.ts';
import type { DiskLimits } from '../../src/testing/sim/disk.ts';
import type { GuestWindow } from '../../src/testing/sim/guest-meter.ts';
import { createSimulatedBackend } from '../../src/testing/sim/hypervisor.ts';
import { useKnownChecksums } from '../../src/testing/sim/known-checksums.ts';
import { createNetwork } from '../../src/testing/sim/network.ts';
import { createSimulatedVm } from '../../src/testing/sim/vm.ts';
import { idle, oltp, type SimulatedWorkload, simulatedDirtier } from '../../src/testing/sim/workloads.ts';
import { createVirtualEnvironment } from '../../src/testing/virtual-time.ts';

const mebibyte = 2 ** 20;
const gibibyte = 2 ** 30;

/** What the guest does while it is moved. */
export type DistanceGuest = 'idle' | 'oltp' | 'dirtier';

/** One migration to be simulated. */
export interface DistanceCell {
  /** There and back, in ms. */
  readonly rttMs: number;
  /** How many of the packets are lost, in per cent, each way. */
  readonly lossPercent: number;
  readonly rateGbit: number;
  readonly memoryGiB: number;
  /** A quarter of it is allocated. */
  readonly diskGiB: number;
  readonly guest: DistanceGuest;
  readonly congestion: 'bbr' | 'cubic' | 'reno';
  /** What a connection may have on its way, in MiB: the hosts' socket buffers. */
  readonly socketMiB: number;
  /** `MigrationPolicy.windowBytesMax`, in MiB. */
  readonly windowMiB: number;
  /** How long the guest is watched before, in seconds. */
  readonly beforeSeconds: number;
  readonly seed: number;
}

/** What the guest's disk writes were like. */
export interface WriteStatistics {
  readonly perSecond: number;
  readonly medianMs: number;
  readonly p99Ms: number;
  readonly maxMs: number;
}

/** What became of a {@link DistanceCell}. */
export interface DistanceResult {
  readonly cell: DistanceCell;
  /** `completed`, or the error's code. */
  readonly outcome: string;
  /** Both ends hold the same, unit by unit, when the destination takes over. False if it never did. */
  readonly equal: boolean;
  readonly totalMs: number;
  /** Content that was sent: memory, disk, mirrored writes, device state. */
  readonly sentBytes: number;
  /** `totalMs` over the time that the link takes for `sentBytes`. */
  readonly overIdeal: number;
  /** For how long the guest stood still, by its own count. */
  readonly downtimeMs: number;
  readonly rounds: number;
  readonly throttleMax: number;
  readonly phases: MigrationReport['phases'];
  readonly setBack: number;
  /** Absent for guests that do not write to their disk. */
  readonly before?: WriteStatistics;
  readonly during?: WriteStatistics;
}

/** A good SSD, or a volume of a fast storage network. */
const disk: DiskLimits = { latencyMs: 0.3, iops: 50_000, bytesPerSecond: 2_500_000_000, flushMs: 2 };

const timings = { stunMs: 2, saveMs: 5, sealMs: 1, resumeMs: 2, prepareMs: 200, loadMs: 10, startMs: 2 };

/** Content on its way is lent from a ring: more than the windows of both ends, all queues and what is being applied hold. */
const queuedMiB = 128;

/** What the guest's writes count under. */
const writer = 'oltp-0';

function workloadsOf({ guest, memoryGiB }: DistanceCell): readonly SimulatedWorkload[] {
  switch (guest) {
    case 'idle':
      return [idle()];
    case 'oltp':
      // Reads and writes by themselves, so that the writes are counted by themselves: 400 a second, 30 %.
      return [
        oltp({ disk: 'disk', iops: 120, readFraction: 0, burst: 6 }),
        oltp({ disk: 'disk', iops: 280, readFraction: 1, burst: 14 }),
      ];
    case 'dirtier':
      return [
        simulatedDirtier({
          bytesPerSecond: 20_000_000,
          hotBytes: Math.min(256 * mebibyte, (memoryGiB * gibibyte) / 4),
          hotFraction: 0.95,
          coldBytes: Math.min(2048 * mebibyte, (memoryGiB * gibibyte) / 4),
        }),
      ];
  }
}

/**
 * Simulates a migration: the engine's both ends in virtual time, between simulated hosts. Equal cells have
 * equal results, whatever machine they are simulated on.
 */
export async function simulateCell(cell: DistanceCell): Promise<DistanceResult> {
  const endKnownChecksums = useKnownChecksums();
  try {
    return await simulate(cell);
  } finally {
    endKnownChecksums();
  }
}

async function simulate(cell: DistanceCell): Promise<DistanceResult> {
  const { seed } = cell;
  const environment = createVirtualEnvironment(seed);
  const network = createNetwork({
    environment,
    seed,
    copy: false,
    paths: [
      {
        name: 'path',
        rateMbit: cell.rateGbit * 1000,
        delayMs: cell.rttMs / 2,
        lossProbability: cell.lossPercent / 100,
        congestion: cell.congestion,
        windowBytes: cell.socketMiB * mebibyte,
      },
    ],
  });
  let equal = false;
  const backend = createSimulatedBackend({
    environment,
    timings,
    disk,
    check: 'stamp',
    observe: ({ kind }) => {
      const there = backend.vms.at(-1);
      if (kind === 'started' && there !== undefined) equal = compareSimulatedVms(vm, there).equal;
    },
  });
  const vm = createSimulatedVm({
    environment,
    seed,
    vmId: 'vm',
    timings,
    check: 'stamp',
    ringBytes: (queuedMiB + 4 * cell.windowMiB) * mebibyte,
    stateBytes: mebibyte,
    memory: { sizeBytes: cell.memoryGiB * gibibyte },
    disks: [{ ...disk, id: 'disk', sizeBytes: cell.diskGiB * gibibyte, allocatedFraction: 0.25 }],
    workloads: workloadsOf(cell),
  });

  vm.guest.mark('before');
  await environment.run(environment.now() + cell.beforeSeconds * 1000);
  vm.guest.mark('during');
  const destination = createDestination({
    backend,
    transport: network.transport({ host: 'destination', listen: 'vm' }),
    register: memoryRegister(),
    environment,
  });
  const source = createSource({
    vm: vm.attachSource(),
    transport: network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } }),
    register: memoryRegister(),
    policy: { windowBytesMax: cell.windowMiB * mebibyte },
    environment,
  });
  const [report] = await environment.run(Promise.all([source.run(), destination.run()]));
  const windows = (backend.vm ?? vm).guest.statistics();
  return resultOf(cell, report, equal, windows);
}

function resultOf(
  cell: DistanceCell,
  report: MigrationReport,
  equal: boolean,
  windows: readonly GuestWindow[],
): DistanceResult {
  const { memory, disk: bulk, mirror, state } = report.bytes;
  const sentBytes = memory + bulk + mirror + state;
  const before = writesIn(windows, 'before');
  const during = writesIn(windows, 'during');
  return {
    cell,
    outcome: report.outcome === 'completed' ? 'completed' : (report.error?.code ?? report.outcome),
    equal,
    totalMs: report.totalMs,
    sentBytes,
    overIdeal: report.totalMs / (sentBytes / (cell.rateGbit * 125_000)),
    downtimeMs: windows.find(({ label }) => label === 'during')?.longestPauseMs ?? 0,
    rounds: report.rounds,
    throttleMax: report.throttleMax,
    phases: report.phases,
    setBack: report.guestWrites.setBack,
    ...(before === undefined ? {} : { before }),
    ...(during === undefined ? {} : { during }),
  };
}

function writesIn(windows: readonly GuestWindow[], label: string): WriteStatistics | undefined {
  const window = windows.find((candidate) => candidate.label === label);
  const operations = window?.workloads[writer];
  if (window === undefined || operations === undefined) return undefined;
  const { median, p99, max } = operations.latencyMs;
  return {
    perSecond: (1000 * operations.completed) / (window.toMs - window.fromMs),
    medianMs: median,
    p99Ms: p99,
    maxMs: max,
  };
}
