import { resolvePolicy } from '../../core/policy.ts';
import { connectionsMax } from '../../wire/limits.ts';
import type { SimulatedDiskOptions } from './disk.ts';
import { diskModesOf, type Scenario } from './scenario.ts';
import type { VmTimings } from './vm-options.ts';

/** Silence on a data connection, clean-up steps, greetings: the limits of the engine's own, and room for some of them. */
const ownMs = 120_000;

/** After a switchover that failed, until all that it began has ended. */
const settleMs = 12_000;

/**
 * After which time a run must be over, in virtual ms: everything that waits has its limit in the policy or in the engine, and what is copied
 * moves as fast as the slowest path and disk that the scenario makes.
 */
export function runMsMax(scenario: Scenario): number {
  const { vm, policy, acceptMsMax = 10_000, timeline } = scenario;
  const resolved = resolvePolicy(policy);
  const { connectMsMax, stunMsMax, decideMsMax, roundsMax, windowBytesMax, switchoverAttemptsMax } = resolved;
  let dueMs = 0;
  for (const { at } of timeline) {
    dueMs = Math.max(dueMs, 'ms' in at ? at.ms : 'afterMs' in at ? (at.afterMs ?? 0) : 0);
  }
  const roundMs = 200 + sendMs(scenario, vm.memory.sizeBytes + windowBytesMax) + mirrorMs(scenario);
  const copyMs = 4 * (sendMs(scenario, vmBytes(scenario)) + diskMs(scenario));
  // Each switchover has its rounds before it; and, should it fail, a plug point that takes its time.
  const switchoversMs = switchoverAttemptsMax * (roundsMax * roundMs + stunMsMax + settleMs);
  // Whatever is done to the link may be an outage of its own, and copying then starts slowly once more.
  const outagesMs = (1 + timeline.length) * (resolved.outageMsMax + 2 * resolved.silenceMsMax + copyMs);
  const hooksMs = 2 * (scenario.hosts?.hooks?.msMax ?? 0);
  const handoverMs = 4 * decideMsMax + hooksMs;
  return dueMs + acceptMsMax + 2 * connectMsMax + switchoversMs + handoverMs + ownMs + copyMs + outagesMs;
}

/** Whether all of the VM could be moved within the time from stun to READY, with much to spare. */
export function stunIsAmple(scenario: Scenario): boolean {
  return resolvePolicy(scenario.policy).stunMsMax >= ampleMs(scenario);
}

function ampleMs(scenario: Scenario): number {
  const copyMs = sendMs(scenario, vmBytes(scenario)) + diskMs(scenario);
  return 2 * resolvePolicy(scenario.policy).downtimeMsMax + 1000 + 5 * copyMs;
}

/**
 * Whether GO comes while the destination waits for it, and the answer while the source does, also where a packet of READY and one of GO are lost: neither is
 * followed by anything that would tell of it, so that a timer has to run out.
 */
export function decideIsAmple(scenario: Scenario): boolean {
  const { paths, hosts, policy, registerMs = 1 } = scenario;
  // In one flight GO comes with the last of the data, and then all of it has to be put in its place, checked and loaded.
  let needMs = policy.handover === 'one-flight' ? ampleMs(scenario) : 0;
  for (const { delayMs = 0, jitterMs = 0, lossProbability = 0, back } of paths) {
    const roundTripMs = delayMs + jitterMs + (back?.delayMs ?? delayMs) + (back?.jitterMs ?? jitterMs);
    const lost = Math.max(lossProbability, back?.lossProbability ?? 0) > 0;
    needMs = Math.max(needMs, roundTripMs + (lost ? 2 * Math.max(200, 2 * roundTripMs) : 0));
  }
  const { sealMs = 0 } = hosts?.source ?? {};
  const stepsMs = sealMs + 2 * registerMs + (hosts?.destination?.startMs ?? 0) + (hosts?.hooks?.msMax ?? 0);
  return resolvePolicy(policy).decideMsMax >= needMs + stepsMs;
}

/** What a guest that is modest takes of the link, and of each disk, at the most. */
const modestShare = 0.05;

/** Whether the guest writes so little, and the downtime is so ample, that there is nothing that could not converge. */
export function isModest(scenario: Scenario): boolean {
  const { vm, hosts, policy } = scenario;
  const { downtimeMsMax, roundsMax, memory } = resolvePolicy(policy);
  const modes = diskModesOf(scenario);
  const there = hosts?.disk ?? {};
  let bytesPerSecond = 0;
  let isSmall = downtimeMsMax >= 1000 && roundsMax >= 15 && (there.latencyMs ?? 0) <= 10;
  // A flush is a part of every stun.
  isSmall &&= (there.flushMs ?? 0) <= 0.2 * downtimeMsMax;
  for (const workload of vm.workloads) {
    if (workload.kind === 'idle') continue;
    if (workload.kind === 'memory-dirtier') {
      if (memory === 'copy') bytesPerSecond += workload.bytesPerSecond;
      continue;
    }
    const disk = vm.disks.find(({ id }) => id === workload.disk);
    if (disk === undefined || modes.get(disk.id) !== 'copy') continue;
    const isOltp = workload.kind === 'oltp';
    const perSecond = isOltp ? workload.iops : workload.bytesPerSecond / workload.ioBytes;
    const burst = isOltp ? workload.burst : 1;
    // A dirty log tells no less than a grain, and no less than a region is copied again.
    const grainBytes = disk.tap === 'extents' ? Math.max(65_536, disk.dirtyGrainBytes ?? 0) : 0;
    const bytes = perSecond * (workload.ioBytes + 2 * grainBytes);
    bytesPerSecond += bytes;
    const iops = Math.min(disk.iops ?? 1e9, there.iops ?? 1e9);
    isSmall &&= perSecond <= modestShare * iops && bytes <= modestShare * (disk.bytesPerSecond ?? 1e12);
    isSmall &&= sendMs(scenario, burst * workload.ioBytes) <= 100;
  }
  return isSmall && sendMs(scenario, bytesPerSecond) <= 1000 * modestShare;
}

/** Whether the guest writes so much that the slowest path could hardly follow. */
export function guestOutruns(scenario: Scenario): boolean {
  let perSecond = 0;
  let writes = 0;
  for (const workload of scenario.vm.workloads) {
    if (workload.kind === 'oltp') {
      perSecond += workload.iops * (1 - workload.readFraction) * workload.ioBytes;
      writes += workload.iops * (1 - workload.readFraction);
    } else if (workload.kind !== 'idle') perSecond += workload.bytesPerSecond;
    if (workload.kind === 'sequential-writer') writes += workload.bytesPerSecond / workload.ioBytes;
  }
  return sendMs(scenario, perSecond) > 400 || writes > 0.4 * writesPerSecondMax(scenario);
}

/** How many writes a disk at the destination takes in a second: eight at once, where it is its latency that counts. */
function writesPerSecondMax({ hosts }: Scenario): number {
  const { iops = 1e9, latencyMs = 0 } = hosts?.disk ?? {};
  return Math.min(iops, latencyMs > 10 ? 8000 / latencyMs : 1e9);
}

/** What a slow disk at the destination takes at the most to write what the mirror's buffer holds, small writes of a kibibyte each. */
function mirrorMs({ hosts, policy }: Scenario): number {
  const { iops = 1e9, latencyMs = 0, flushMs = 0 } = hosts?.disk ?? {};
  const { mirrorBufferBytesMax = 64 << 20 } = resolvePolicy(policy);
  return flushMs + (mirrorBufferBytesMax / 1024) * Math.max(1000 / iops, latencyMs / 8);
}

/** What reading and writing all disks once takes at the most beside their rates, in ms: in pieces of 64 KiB, each with its own latency. */
function diskMs(scenario: Scenario): number {
  const { vm, hosts } = scenario;
  const rates = vm.disks.map(({ bytesPerSecond = 1e9 }) => bytesPerSecond);
  const readMs = (1000 * vmBytes(scenario)) / Math.min(1e9, ...rates);
  const pieces = vm.disks.reduce((sum, { sizeBytes }) => sum + Math.ceil(sizeBytes / 65_536), 0);
  const each = [...vm.disks, hosts?.disk ?? {}].reduce((longest, disk) => {
    const { iops = 1e9, latencyMs = 0, flushMs = 0 } = disk;
    return Math.max(longest, 1000 / iops + latencyMs + flushMs);
  }, 0);
  return readMs + 2 * pieces * each;
}

function vmBytes({ vm }: Scenario): number {
  return vm.memory.sizeBytes + vm.disks.reduce((sum, disk) => sum + disk.sizeBytes, 0);
}

/** What so many bytes take at the most. */
function sendMs({ paths, hosts, timeline }: Scenario, bytes: number): number {
  let rateMbit = ((hosts?.disk?.bytesPerSecond ?? 1e9) * 8) / 1e6;
  for (const { rateMbit: rate = 1e4, delayMs = 0, lossProbability = 0, back } of paths) {
    const bothMs = delayMs + (back?.delayMs ?? delayMs);
    rateMbit = Math.min(rateMbit, rate, back?.rateMbit ?? rate, lossyMbit(bothMs, lossProbability));
  }
  const changes = timeline.flatMap(({ do: action }) => ('change' in action ? [action.to] : []));
  if (changes.length > 0) {
    // What a change says nothing of stays as it was: one may bring the losses, and another the delay.
    const all = [...paths, ...paths.flatMap(({ back }) => back ?? []), ...changes];
    const delayMs = Math.max(50, ...all.map((each) => each.delayMs ?? 0));
    const lossProbability = Math.max(...all.map((each) => each.lossProbability ?? 0));
    rateMbit = Math.min(rateMbit, ...changes.map(({ rateMbit: rate = 1e4 }) => rate));
    rateMbit = Math.min(rateMbit, lossyMbit(2 * delayMs, lossProbability));
  }
  return (bytes * 8) / (rateMbit * 1000);
}

/** After which time both ends must know who owns the VM, once all is mended. */
export function mendMsMax(scenario: Scenario): number {
  return runMsMax({ ...scenario, timeline: [] });
}

/** What may be held in connections at once: the window, a frame that is being sent on each of them, and what control takes. */
export function heldBytesMax({ policy }: Scenario): number {
  const { windowBytesMax, connections = connectionsMax } = resolvePolicy(policy);
  const frameBytes = (1 << 20) + (64 << 10);
  return windowBytesMax + connections * 2 * frameBytes + (4 << 20);
}

/** What one connection makes of a lossy path: a window of about 1.2 packets over the root of the probability each round trip. */
function lossyMbit(roundTripMs: number, probability: number): number {
  if (probability === 0 || roundTripMs === 0) return 1e4;
  return (1448 * 8 * 1.2) / Math.sqrt(probability) / (roundTripMs * 1000);
}

/** The engine expects so much of a hypervisor's steps and of an audit, together, in ms. */
const expectedStepsMs = 60;
/** What is measured may be off by so much. */
const measuredDoubt = 1.5;
/** Before that much has passed a slow disk at the destination may not have been measured at all, with all that there is to write on its way. */
const measuredMs = 1000;

/**
 * How long a guest may stand still where nothing goes wrong: for what the policy allows, and for what the engine cannot measure before, each step of the hosts, what hooks take, the handover's round trips. Undefined where it is
 * not limited: a stun may be forced, and disks that nothing is seen of are copied in it, as is what a guest writes in its last moments to a disk that tells extents
 * only, which may be all of it. Nor where the stun is so early that nothing can be known of a slow disk.
 */
export function downtimeMsMost(scenario: Scenario, stunnedAtMs: number): number | undefined {
  const { vm, paths, hosts = {}, policy, registerMs = 1 } = scenario;
  const { downtimeMsMax, onTimeout, audit } = resolvePolicy(policy);
  const isCopiedStunned = (disk: SimulatedDiskOptions) =>
    disk.tap === 'none' || (disk.tap === 'extents' && readMs(disk) > downtimeMsMax / 2);
  if (onTimeout === 'force' || audit === 'full' || vm.disks.some(isCopiedStunned)) return undefined;
  const { iops, latencyMs = 0 } = hosts.disk ?? {};
  if (stunnedAtMs < measuredMs && (iops !== undefined || latencyMs > 0)) return undefined;
  const stepsOf = ({ stunMs = 0, saveMs = 0, sealMs = 0, loadMs = 0, startMs = 0 }: VmTimings = {}) =>
    stunMs + saveMs + sealMs + loadMs + startMs;
  const stepsMs = expectedStepsMs + stepsOf(hosts.source) + stepsOf(hosts.destination) + 2 * registerMs;
  const [{ delayMs = 0, queueMs = Number.POSITIVE_INFINITY, back } = {}] = paths;
  const roundTripMs = delayMs + (back?.delayMs ?? delayMs);
  // A queue that holds less than a round trip overflows in the slow start of a connection, and a timer may have to run out for that.
  const lostMs = queueMs < roundTripMs ? Math.max(200, 2 * roundTripMs) : 0;
  const waitsMs = (hosts.hooks?.msMax ?? 0) + underWayMs(scenario) + lostMs;
  return measuredDoubt * downtimeMsMax + stepsMs + waitsMs + 3 * roundTripMs;
}

/** What reading all of a disk takes at the most, in pieces of 64 KiB. */
function readMs({
  sizeBytes,
  iops = 1e9,
  bytesPerSecond = 1e12,
  latencyMs = 0,
}: SimulatedDiskOptions): number {
  return (1000 * sizeBytes) / bytesPerSecond + Math.ceil(sizeBytes / 65_536) * (1000 / iops + latencyMs);
}

/** What a guest's own disk takes at the most for what the guest has under way on it: a stun waits for that. */
function underWayMs({ vm }: Scenario): number {
  let longestMs = 0;
  for (const workload of vm.workloads) {
    if (!('queueDepth' in workload)) continue;
    const { queueDepth, ioBytes, disk: id } = workload;
    const {
      iops = 1e9,
      bytesPerSecond = 1e12,
      latencyMs = 0,
    } = vm.disks.find((disk) => disk.id === id) ?? {};
    longestMs = Math.max(
      longestMs,
      latencyMs + queueDepth * Math.max(1000 / iops, (1000 * ioBytes) / bytesPerSecond),
    );
  }
  return longestMs;
}
