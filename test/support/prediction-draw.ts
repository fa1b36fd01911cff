import { Chance } from '../../src/testing/sim/chance.ts';
import { drawScenario } from '../../src/testing/sim/draw.ts';
import type { Scenario } from '../../src/testing/sim/scenario.ts';
import type { VmTimings } from '../../src/testing/sim/vm-options.ts';
import { idle, oltp, type SimulatedWorkload, simulatedDirtier } from '../../src/testing/sim/workloads.ts';

const mebibyte = 1 << 20;

/**
 * A scenario of the swarm's, in which nothing goes wrong. Undefined for what no prediction is asked for: a guest that is paused, and a destination whose disks
 * are slower than the link, which an estimate cannot see.
 */
export function drawCalm(seed: number): Scenario | undefined {
  const scenario = { ...drawScenario(seed), rehearse: false, timeline: [] };
  if (scenario.vm.paused === true || scenario.policy.seed === 'compare') return undefined;
  const { bytesPerSecond = Number.POSITIVE_INFINITY, iops, latencyMs = 0 } = scenario.hosts?.disk ?? {};
  const linkBytes = Math.max(...scenario.paths.map(({ rateMbit = 1e4 }) => rateMbit * 125_000));
  return bytesPerSecond < linkBytes || iops !== undefined || latencyMs > 1 ? undefined : scenario;
}

/** A VM that takes seconds to minutes to move, with a guest that may need to be throttled for it. */
export function drawLarger(seed: number): Scenario {
  const chance = new Chance(2 ** 42 + seed);
  const rateMbit = chance.one([20, 50, 100, 200]);
  const linkBytes = rateMbit * 125_000;
  const memoryBytes = chance.integer(8, 48) * mebibyte;
  const disks = Array.from({ length: chance.one([0, 1, 1, 2]) }, (_, index) => ({
    id: `disk${index}`,
    sizeBytes: chance.integer(4, 64) * mebibyte,
    allocatedFraction: chance.one([0.1, 0.3, 0.6, 1]),
    ...(chance.of(0.5) && {
      latencyMs: chance.one([0.1, 0.5, 2]),
      bytesPerSecond: chance.one([20, 50, 200]) * mebibyte,
      flushMs: chance.one([0, 1, 10]),
    }),
  }));
  const delayMs = chance.one([0.1, 0.5, 5, 20, 50, 100]);
  return {
    vm: {
      memory: { sizeBytes: memoryBytes, usedFraction: chance.one([0.3, 0.7, 1]) },
      disks,
      workloads: drawGuest(chance, memoryBytes, linkBytes, disks),
      stateBytes: chance.one([100, 160, 250]) << 10,
    },
    paths: [
      {
        name: 'wan',
        rateMbit,
        delayMs,
        queueMs: chance.one([25, 100]),
        congestion: chance.one(['cubic', 'bbr'] as const),
        lossProbability: chance.of(0.2) ? 0.0002 : 0,
      },
    ],
    hosts: { source: drawTimings(chance), destination: drawTimings(chance) },
    policy: {
      downtimeMsMax: chance.one([100, 300, 300, 1000]),
      throttleMax: chance.one([0, 0.5, 0.8, 0.8, 0.99]),
      handover: chance.one(['confirmed', 'confirmed', 'one-flight'] as const),
    },
    registers: 'own',
    registerMs: chance.one([0.2, 2, 10]),
    timeline: [],
  };
}

/** The same, with a codec at both ends and leave to use it. */
export function withCompression(scenario: Scenario): Scenario {
  const { policy, hosts } = scenario;
  return { ...scenario, policy: { ...policy, compression: 'auto' }, hosts: { ...hosts, codec: true } };
}

/** As hypervisors are: stopping, saving and starting take milliseconds, and loading some tens at the most. */
function drawTimings(chance: Chance): VmTimings {
  return {
    stunMs: chance.one([1, 2, 5]),
    saveMs: chance.one([1, 5, 10]),
    sealMs: chance.one([1, 2]),
    resumeMs: 1,
    prepareMs: chance.one([5, 50, 200]),
    loadMs: chance.one([3, 10, 20]),
    startMs: chance.one([1, 2, 5]),
  };
}

function drawGuest(
  chance: Chance,
  memoryBytes: number,
  linkBytes: number,
  disks: readonly { readonly id: string; readonly sizeBytes: number }[],
): readonly SimulatedWorkload[] {
  const workloads: SimulatedWorkload[] = [idle()];
  if (chance.of(0.85)) {
    const hotBytes = Math.max(4096, Math.floor((memoryBytes * chance.one([0.02, 0.1, 0.4])) / 4096) * 4096);
    workloads.push(
      simulatedDirtier({
        bytesPerSecond: linkBytes * chance.one([0.02, 0.1, 0.3, 0.6, 1.2, 3]),
        hotBytes,
        hotFraction: chance.one([0.8, 0.95, 1]),
        coldBytes: Math.floor(memoryBytes / 2 / 4096) * 4096,
      }),
    );
  }
  for (const { id, sizeBytes } of disks) {
    if (!chance.of(0.6)) continue;
    workloads.push(
      oltp({
        disk: id,
        readFraction: 0,
        iops: Math.max(1, Math.floor((linkBytes * chance.one([0.01, 0.05, 0.2])) / 8192)),
        hotBytes: Math.min(sizeBytes, chance.one([1, 4, 64]) * mebibyte),
      }),
    );
  }
  return workloads;
}
