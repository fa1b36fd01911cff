import { resolvePolicy } from '../../core/policy.ts';
import { connectionsMax } from '../../wire/limits.ts';
import type { Scenario } from './scenario.ts';

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
  const roundMs = 200 + sendMs(scenario, vm.memory.sizeBytes + windowBytesMax);
  const copyMs = 4 * sendMs(scenario, vmBytes(scenario));
  // Each switchover has its rounds before it; and, should it fail, a plug point that takes its time.
  const switchoversMs = switchoverAttemptsMax * (roundsMax * roundMs + stunMsMax + settleMs);
  // Whatever is done to the link may be an outage of its own, and copying then starts slowly once more.
  const outagesMs = (1 + timeline.length) * (resolved.outageMsMax + 2 * resolved.silenceMsMax + copyMs);
  return (
    dueMs + acceptMsMax + 2 * connectMsMax + switchoversMs + 4 * decideMsMax + ownMs + copyMs + outagesMs
  );
}

/** Whether all of the VM could be moved within the time from stun to READY, with much to spare. */
export function stunIsAmple(scenario: Scenario): boolean {
  const { stunMsMax, downtimeMsMax } = resolvePolicy(scenario.policy);
  return stunMsMax >= 2 * downtimeMsMax + 1000 + 5 * sendMs(scenario, vmBytes(scenario));
}

/** Whether the guest writes so much that the slowest path could hardly follow. */
export function guestOutruns(scenario: Scenario): boolean {
  let perSecond = 0;
  for (const workload of scenario.vm.workloads) {
    if (workload.kind === 'oltp') perSecond += workload.iops * (1 - workload.readFraction) * workload.ioBytes;
    else if (workload.kind !== 'idle') perSecond += workload.bytesPerSecond;
  }
  return sendMs(scenario, perSecond) > 400;
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
  for (const { do: action } of timeline) {
    if (!('change' in action)) continue;
    const { rateMbit: rate = 1e4, lossProbability = 0 } = action.to;
    rateMbit = Math.min(rateMbit, rate, lossyMbit(100, lossProbability));
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
