import type { Chance } from './chance.ts';
import type { Scenario } from './scenario.ts';
import { oltp } from './workloads.ts';

/**
 * Some scenarios compare what the destination's disks hold, which may be nothing, an old replica, garbage, or
 * what an earlier attempt has left. Their guests also put back what was there before, in bursts that the
 * mirror's buffer does not take and in writes that lie across regions: that is where a digest of the past
 * would be believed.
 */
export function drawSeed(chance: Chance, scenario: Scenario): Scenario {
  if (!chance.of(0.35)) return scenario;
  const { vm, hosts, policy } = scenario;
  const replicaChanged = chance.one([undefined, 0, 0.02, 0.02, 0.3]);
  const foreign = chance.of(0.25);
  const undoers = vm.disks.flatMap(({ id, readOnly, sizeBytes, blockBytes = 4096 }) => {
    const ioBytes = blockBytes * Math.max(3, chance.one([12, 20, 28]) * (1024 / blockBytes));
    const burst = chance.one([1, 16, 128, 128]);
    const iops = burst * chance.one([0.3, 1, 3]);
    const hotBytes = Math.min(sizeBytes, chance.one([128, 512, 4096]) << 10);
    const undoFraction = chance.one([0.5, 0.8, 0.9]);
    const writes = readOnly !== true && hotBytes >= ioBytes && chance.of(0.7);
    const common = { disk: id, readFraction: 0, queueDepth: 128, hotBytes, undoFraction };
    return writes ? [oltp({ ...common, iops, burst, ioBytes })] : [];
  });
  return {
    ...scenario,
    vm: { ...vm, workloads: [...vm.workloads, ...undoers] },
    policy: { ...policy, seed: 'compare' },
    hosts: {
      ...hosts,
      disk: { ...hosts?.disk, foreign },
      keepsDisks: chance.of(0.7),
      ...(replicaChanged !== undefined && { replicaChanged }),
    },
  };
}
