import type { DiskMode, MigrationPolicy } from '../../interfaces/migration.ts';
import { Chance } from './chance.ts';
import type { DiskLimits, SimulatedDiskOptions } from './disk.ts';
import { drawHiccup } from './draw-timeline.ts';
import type { EndName, Scenario, ScenarioHosts, TimelineEntry } from './scenario.ts';
import type { VmFault, VmFaultPoint } from './vm-faults.ts';
import { oltp, type SimulatedWorkload, simulatedWriter } from './workloads.ts';

const kibibyte = 1 << 10;
const mebibyte = 1 << 20;

/**
 * The scenario with other disks, of every shape, with guests that write them in every way, and with what can go wrong with disks at either end. In two fifths
 * nothing goes wrong at all, so that only the shapes are an excuse; in a fifth the scenario's own timeline happens too.
 */
export function withStorage(seed: number, scenario: Scenario): Scenario {
  const chance = new Chance(2 ** 41 + seed);
  const disks = drawDisks(chance);
  const modes = drawModes(chance, disks);
  const wouldMove = disks.some(
    ({ id, readOnly }) => (modes[id] ?? (readOnly ? 'shared' : 'copy')) === 'copy',
  );
  const alone = chance.of(wouldMove ? 0.33 : 0.05);
  const workloads = disks.flatMap((disk) => drawWorkloads(chance, disk, disks.length));
  const others = scenario.vm.workloads.filter(({ kind }) => kind === 'idle' || kind === 'memory-dirtier');
  const kind = chance.weighted([
    ['calm', 4],
    ['faults', 4],
    ['all', 2],
  ] as const);
  const faults = kind === 'calm' ? [] : drawFaults(chance, { disks, alone });
  const { rehearse = false } = scenario;
  const stored = {
    ...scenario,
    vm: { ...scenario.vm, disks, workloads: chance.of(0.08) ? [] : [...others, ...workloads] },
    hosts: drawHosts(chance, scenario.hosts ?? {}, disks),
    policy: drawPolicy(chance, scenario.policy, modes, alone),
    rehearse: rehearse && !alone,
    timeline: [...faults, ...(kind === 'all' ? scenario.timeline : [])],
  };
  // Disks are copied on after a switchover that failed.
  return kind === 'faults' && chance.of(0.25) ? { ...stored, timeline: drawHiccup(chance) } : stored;
}

function drawDisks(chance: Chance): readonly SimulatedDiskOptions[] {
  const count = chance.weighted([
    [0, 1],
    [1, 8],
    [2, 6],
    [3, 3],
    [chance.integer(8, 24), 1],
  ]);
  return Array.from({ length: count }, (_, index) => drawDisk(chance, `disk${index}`, count > 3));
}

function drawDisk(chance: Chance, id: string, small: boolean): SimulatedDiskOptions {
  const blockBytes = chance.weighted([
    [512, 5],
    [4096, 6],
    [65_536, 1],
  ]);
  return {
    id,
    blockBytes,
    sizeBytes: drawSize(chance, blockBytes, small),
    readOnly: chance.of(0.12),
    allocatedFraction: chance.one([0, 0.2, 0.6, 1]),
    tellsZeros: chance.of(0.7),
    tap: chance.weighted([
      ['ordered', 11],
      ['extents', 6],
      ['none', 3],
    ] as const),
    dirtyGrainBytes: Math.max(blockBytes, chance.one([512, 4096, 64 * kibibyte, 256 * kibibyte])),
    tellsWriteTimes: chance.of(0.6),
    tellsAllocated: chance.of(0.5),
    ...(chance.of(0.5) && drawLimits(chance)),
  };
}

/** A multiple of a region, a byte off one, a part of a block, or anything. What is left of the last block holds a stamp. */
function drawSize(chance: Chance, blockBytes: number, small: boolean): number {
  const regions = small || chance.of(0.2) ? chance.integer(0, 2) : chance.integer(1, 70);
  const more = chance.one([0, 0, 512, 4096, chance.integer(1, 65_535), -1, 1]);
  const bytes = Math.max(8, regions * 64 * kibibyte + more);
  const tail = bytes % blockBytes;
  return tail > 0 && tail < 8 ? bytes - tail + 8 : bytes;
}

/** The limits of a disk that is slow in some way. */
function drawLimits(chance: Chance): DiskLimits {
  return {
    latencyMs: chance.one([0, 0.1, 1, 8]),
    flushMs: chance.one([0, 1, 20, 100]),
    ...(chance.of(0.4) && { iops: chance.one([100, 400, 2000]) }),
    ...(chance.of(0.5) && { bytesPerSecond: chance.one([2, 8, 20, 200]) * mebibyte }),
  };
}

function drawModes(chance: Chance, disks: readonly SimulatedDiskOptions[]): Record<string, DiskMode> {
  const modes: Record<string, DiskMode> = {};
  for (const { id } of disks) {
    const mode = chance.weighted<DiskMode | 'default'>([
      ['default', 8],
      ['copy', 8],
      ['shared', 2],
      ['leave', 2],
    ]);
    if (mode !== 'default') modes[id] = mode;
  }
  return modes;
}

/** Small writes that overlap in part, discards, undone ones, bursts, and long runs; sometimes nothing. */
function drawWorkloads(
  chance: Chance,
  disk: SimulatedDiskOptions,
  disks: number,
): readonly SimulatedWorkload[] {
  const { id, sizeBytes, readOnly, blockBytes = 4096 } = disk;
  const workloads: SimulatedWorkload[] = [];
  const wholeBytes = Math.floor(sizeBytes / blockBytes) * blockBytes;
  const ioBytesMax = Math.min(wholeBytes, 256 * kibibyte);
  if (readOnly === true || ioBytesMax === 0) return [];
  const fewer = disks > 3 ? 4 : 1;
  if (chance.of(0.8)) {
    const ioBytes = Math.min(ioBytesMax, blockBytes * chance.one([1, 2, 3, 5, 17, 40]));
    const hotBytes = Math.floor((chance.one([64, 192, 1024]) * kibibyte) / blockBytes) * blockBytes;
    const burst = chance.one([1, 4, 16, 128]);
    workloads.push(
      oltp({
        disk: id,
        readFraction: chance.one([0, 0, 0.3]),
        iops: Math.max(1, chance.one([burst * 2, 50, 400]) / fewer),
        burst,
        ioBytes,
        queueDepth: burst === 128 ? 128 : chance.one([1, 8, 64]),
        discardFraction: chance.one([0, 0.1, 0.4]),
        undoFraction: chance.one([0, 0.3]),
        alignBytes: blockBytes * chance.one([1, 1, 2]),
        ...(chance.of(0.6) && hotBytes >= ioBytes && hotBytes < sizeBytes && { hotBytes }),
      }),
    );
  }
  if (chance.of(0.3)) {
    workloads.push(
      simulatedWriter({
        disk: id,
        bytesPerSecond: (chance.one([0.2, 1, 4]) * mebibyte) / fewer,
        ioBytes: Math.min(ioBytesMax, blockBytes * chance.one([1, 8, 16])),
        queueDepth: chance.one([1, 4]),
      }),
    );
  }
  return workloads;
}

function drawHosts(
  chance: Chance,
  hosts: ScenarioHosts,
  disks: readonly SimulatedDiskOptions[],
): ScenarioHosts {
  const largest = disks.reduce((most, { sizeBytes }) => Math.max(most, sizeBytes), 0);
  const replicaChanged = chance.one([undefined, undefined, 0, 0.02, 0.3]);
  return {
    ...hosts,
    disk: {
      foreign: chance.of(0.25),
      tellsZeros: chance.of(0.7),
      ...(chance.of(0.5) && drawLimits(chance)),
      // Slower than most guests write.
      ...(chance.of(0.15) &&
        chance.one([{ iops: 40 }, { bytesPerSecond: mebibyte / 2 }, { latencyMs: 100 }])),
      ...(chance.of(0.15) && { capacityBytes: Math.floor(largest * chance.one([0.1, 0.3, 0.7])) }),
    },
    keepsDisks: chance.of(0.5),
    ...(replicaChanged !== undefined && { replicaChanged }),
    ...(chance.of(0.08) && { takesDisksAlone: false }),
  };
}

function drawPolicy(
  chance: Chance,
  policy: MigrationPolicy,
  disks: Readonly<Record<string, DiskMode>>,
  alone: boolean,
): MigrationPolicy {
  return {
    ...policy,
    disks,
    memory: alone ? 'none' : 'copy',
    seed: chance.of(0.3) ? 'compare' : 'none',
    slowDisk: chance.of(0.3) ? 'fail' : 'throttle',
    copyWhileStunned: chance.of(0.8),
    guestWriteHoldMsMax: chance.one([0, 0, 20, 500]),
    downtimeMsMax: chance.one([100, 300, 1000, 3000]),
    stunMsMax: chance.one([1000, 10_000, 60_000]),
    roundsMax: chance.one([15, 30, 60]),
  };
}

/** What there is to hurt. */
interface Targets {
  readonly disks: readonly SimulatedDiskOptions[];
  /** Whether they move alone. */
  readonly alone: boolean;
}

const everywhere: readonly VmFaultPoint[] = ['disk-read', 'disk-write', 'disk-flush', 'disk-extents'];

function pointsOf(end: EndName, { disks, alone }: Targets): readonly VmFaultPoint[] {
  if (end === 'destination') return alone ? [...everywhere, 'hand-over'] : everywhere;
  const logs = disks.some(({ tap }) => tap === 'extents');
  return [
    ...everywhere,
    'disk-write',
    'tap-write',
    ...(logs ? (['disk-track', 'disk-take', 'disk-take'] as const) : []),
  ];
}

/** One to three faults of disks, some of them at the very first operation, some in the middle, some when the guest is stunned. */
function drawFaults(chance: Chance, targets: Targets): readonly TimelineEntry[] {
  return Array.from({ length: chance.integer(1, 3) }, () => {
    const end = chance.one(['source', 'destination'] as const);
    const fault = drawFault(chance, end, targets);
    const phase = chance.one(['copyDisks', 'copyMemory', 'stun'] as const);
    const at = chance.of(0.5) ? { ms: 0 } : { end: 'source' as const, phase, afterMs: chance.delay(500) };
    return { at, do: { vm: end, fault } };
  });
}

function drawFault(chance: Chance, end: EndName, targets: Targets): VmFault {
  const { disks } = targets;
  const point = chance.one(pointsOf(end, targets));
  const writes = point === 'disk-write';
  const effect = chance.weighted([
    ['fail', 3],
    ['none', 4],
    ['tear', writes ? 6 : 0],
    ['break-tap', end === 'source' ? 1 : 0],
    ['die', 0.2],
  ] as const);
  return {
    point,
    effect,
    ...(effect === 'none' && { delayMs: chance.one([1, 20, 300, 3000]) }),
    ...(disks.length > 1 && chance.of(0.3) && { disk: chance.one(disks).id }),
    skip: chance.one([0, 0, 0, 1, chance.integer(1, 8), chance.integer(5, 60)]),
    times: chance.one([1, 1, 3, 20]),
    ...(writes && end === 'source' && { by: 'guest' as const }),
  };
}
