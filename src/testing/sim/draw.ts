import type { DiskMode, MigrationPolicy } from '../../interfaces/migration.ts';
import { Chance } from './chance.ts';
import type { SimulatedDiskOptions } from './disk.ts';
import { drawSeed } from './draw-seed.ts';
import { drawHiccup, drawTimeline } from './draw-timeline.ts';
import type { PathOptions } from './network-path.ts';
import type { Scenario, ScenarioHosts, ScenarioVm } from './scenario.ts';
import type { VmTimings } from './vm-options.ts';
import { idle, oltp, type SimulatedWorkload, simulatedDirtier, simulatedWriter } from './workloads.ts';

const kibibyte = 1 << 10;
const mebibyte = 1 << 20;

/**
 * A scenario for a seed: a small VM, a network, a policy, and what goes wrong. Each seed has its own mixture: some kinds of faults are left
 * out altogether, so that the others meet a world that works otherwise.
 */
export function drawScenario(seed: number): Scenario {
  const chance = new Chance(seed);
  const vm = drawVm(chance);
  const paths = drawPaths(chance);
  const scenario: Scenario = {
    vm,
    paths,
    hosts: drawHosts(chance),
    policy: drawPolicy(chance, vm),
    acceptMsMax: chance.one([2000, 5000, 10_000]),
    registers: chance.one(['own', 'shared']),
    registerMs: chance.one([0.2, 2, 10, 40]),
    answers: chance.of(0.7),
    namesAttempt: chance.of(0.3),
    timeline: drawTimeline(chance, {
      paths: paths.map(({ name }) => name),
      disks: vm.disks.map(({ id }) => id),
    }),
  };
  const { policy, hosts } = scenario;
  return drawSeed(chance, {
    ...scenario,
    policy: {
      ...policy,
      switchoverAttemptsMax: chance.one([1, 2, 3, 3, 5]),
      silenceMsMax: chance.one([1000, 5000]),
      outageMsMax: chance.one([0, 2000, 20_000, 120_000]),
    },
    hosts: { ...hosts, loadsOnce: chance.of(0.2) },
    rehearse: chance.of(0.06),
    timeline: [...scenario.timeline, ...(chance.of(0.3) ? drawHiccup(chance) : [])],
  });
}

function drawVm(chance: Chance): ScenarioVm {
  const pageBytes = chance.weighted([
    [4096, 6],
    [16_384, 1],
    [65_536, 1],
  ]);
  const memoryBytes = chance.of(0.05) ? 0 : chance.integer(2, 48) * 64 * kibibyte;
  const count = chance.weighted([
    [0, 1],
    [1, 7],
    [2, 4],
  ]);
  const disks = Array.from({ length: count }, (_, index) => drawDisk(chance, `disk${index}`));
  return {
    memory: { sizeBytes: memoryBytes, pageBytes, usedFraction: chance.one([0, 0.3, 0.7, 1]) },
    disks,
    workloads: drawWorkloads(chance, memoryBytes, pageBytes, disks),
    paused: chance.of(0.06),
    keepsUnsentPages: chance.of(0.8),
    stateBytes: chance.one([1, 16, 100, 300]) * kibibyte,
    saveDirtyBytes: chance.one([0, 0, 4096, 128 * kibibyte]),
  };
}

function drawDisk(chance: Chance, id: string): SimulatedDiskOptions {
  const slow = chance.of(0.5);
  return {
    id,
    blockBytes: chance.one([512, 4096, 4096]),
    sizeBytes: chance.integer(1, 80) * 64 * kibibyte + chance.one([0, 0, 512, 4096]),
    readOnly: chance.of(0.05),
    allocatedFraction: chance.one([0, 0.2, 0.6, 1]),
    tellsZeros: chance.of(0.85),
    ...(slow && {
      latencyMs: chance.one([0.1, 1, 8]),
      bytesPerSecond: chance.one([8, 20, 200]) * mebibyte,
      flushMs: chance.one([0, 1, 20]),
    }),
  };
}

function drawWorkloads(
  chance: Chance,
  memoryBytes: number,
  pageBytes: number,
  disks: readonly SimulatedDiskOptions[],
): readonly SimulatedWorkload[] {
  const workloads: SimulatedWorkload[] = [idle()];
  if (memoryBytes > 0 && chance.of(0.75)) {
    const pages = memoryBytes / pageBytes;
    const hot = chance.integer(1, Math.max(1, Math.floor(pages / 2)));
    const cold = Math.floor((pages - hot) / 2);
    workloads.push(
      simulatedDirtier({
        bytesPerSecond: chance.one([0.1, 1, 4]) * mebibyte,
        hotBytes: hot * pageBytes,
        hotFraction: cold > 0 ? chance.one([0.5, 0.9, 1]) : 1,
        coldBytes: cold * pageBytes,
      }),
    );
  }
  for (const { id, sizeBytes, readOnly, blockBytes = 4096 } of disks) {
    if (readOnly) continue;
    const wholeBytes = Math.floor(sizeBytes / 65_536) * 65_536;
    if (chance.of(0.75)) {
      workloads.push(
        oltp({
          disk: id,
          readFraction: chance.one([0, 0, 0.5]),
          iops: chance.one([20, 100, 400]),
          burst: chance.one([1, 4, 16]),
          ioBytes: blockBytes * chance.one([1, 2, 4]),
          queueDepth: chance.one([1, 8, 16]),
          hotBytes: Math.min(wholeBytes, chance.one([32, 128, 65_536]) * kibibyte),
        }),
      );
    }
    if (chance.of(0.3)) {
      workloads.push(
        simulatedWriter({
          disk: id,
          bytesPerSecond: chance.one([0.2, 1, 4]) * mebibyte,
          ioBytes: chance.one([4096, 16_384, 65_536]),
          queueDepth: chance.one([1, 4]),
        }),
      );
    }
  }
  return workloads;
}

function drawPaths(chance: Chance): readonly PathOptions[] {
  const count = chance.of(0.2) ? 2 : 1;
  return Array.from({ length: count }, (_, index) => {
    const rateMbit = chance.one([50, 200, 1000, 10_000]);
    const delayMs = chance.one([0.05, 0.5, 5, 20, 50]);
    return {
      name: index === 0 ? 'wan' : 'lan',
      rateMbit,
      delayMs,
      jitterMs: chance.of(0.3) ? delayMs / 2 : 0,
      queueMs: chance.one([5, 25, 100]),
      lossProbability: chance.of(0.3) ? (delayMs > 5 ? 0.0002 : 0.005) : 0,
      congestion: chance.one(['cubic', 'bbr', 'reno'] as const),
      ...(chance.of(0.2) && { back: { rateMbit: rateMbit / 4, delayMs: delayMs * 2 } }),
    };
  });
}

function drawHosts(chance: Chance): ScenarioHosts {
  const timings = (): VmTimings => ({
    stunMs: chance.one([0, 1, 10]),
    saveMs: chance.one([0, 2, 20]),
    sealMs: chance.one([0, 1, 10]),
    resumeMs: chance.one([0, 1, 10]),
    prepareMs: chance.one([0, 5, 100]),
    loadMs: chance.one([0, 5, 50]),
    startMs: chance.one([0, 1, 10]),
  });
  return {
    source: timings(),
    destination: timings(),
    disk: {
      foreign: chance.of(0.2),
      tellsZeros: chance.of(0.8),
      ...(chance.of(0.4) && {
        latencyMs: chance.one([0.1, 1, 5]),
        bytesPerSecond: chance.one([10, 40, 400]) * mebibyte,
        flushMs: chance.one([0, 5, 50]),
      }),
    },
  };
}

function drawPolicy(chance: Chance, { disks }: ScenarioVm): MigrationPolicy {
  const modes: Record<string, DiskMode> = {};
  for (const { id, readOnly } of disks) {
    const mode = chance.weighted<DiskMode>([
      ['copy', 14],
      ['shared', 1],
      ['leave', 1],
    ]);
    if (mode !== 'copy' || (readOnly && chance.of(0.7))) modes[id] = mode;
  }
  const connections = chance.integer(1, 4);
  return {
    // Otherwise as many as the channel likes.
    ...(connections < 4 ? { connections } : {}),
    downtimeMsMax: chance.one([30, 100, 300, 1000]),
    stunMsMax: chance.one([300, 5000, 10_000]),
    guestWriteHoldMsMax: chance.one([0, 0, 20, 500]),
    throttleMax: chance.one([0, 0.5, 0.8, 0.99]),
    roundsMax: chance.one([5, 15, 30]),
    mirrorBufferBytesMax: mebibyte,
    windowBytesMax: chance.one([1, 2, 8]) * mebibyte,
    connectMsMax: chance.one([1000, 3000]),
    decideMsMax: chance.one([300, 1000, 3000]),
    disks: modes,
  };
}
