import { resolvePolicy } from '../../core/policy.ts';
import type { Scenario } from './scenario.ts';

/**
 * After which time a run must be over, in virtual ms: everything that waits has its limit in the policy or in the engine, and what is copied
 * moves as fast as the slowest path that the scenario makes.
 */
export function runMsMax({ vm, paths, policy, acceptMsMax = 10_000, timeline }: Scenario): number {
  const { connectMsMax, stunMsMax, decideMsMax, roundsMax } = resolvePolicy(policy);
  const bytes = vm.memory.sizeBytes + vm.disks.reduce((sum, disk) => sum + disk.sizeBytes, 0);
  let rateMbit = 1000;
  for (const { rateMbit: rate = 1000, back } of paths) rateMbit = Math.min(rateMbit, rate, back?.rateMbit ?? rate);
  let dueMs = 0;
  for (const { at, do: action } of timeline) {
    if ('change' in action) rateMbit = Math.min(rateMbit, action.to.rateMbit ?? rateMbit);
    dueMs = Math.max(dueMs, 'ms' in at ? at.ms : 'afterMs' in at ? (at.afterMs ?? 0) : 0);
  }
  const copyMs = (bytes * 8) / (rateMbit * 1000);
  // Silence on a data connection, clean-up steps, greetings: the engine's own limits.
  const ownMs = 120_000;
  return dueMs + acceptMsMax + 2 * connectMsMax + stunMsMax + 4 * decideMsMax + ownMs + 40 * copyMs + 50 * roundsMax;
}

/** After which time both ends must know who owns the VM, once all is mended. */
export function mendMsMax(scenario: Scenario): number {
  return runMsMax({ ...scenario, timeline: [] });
}

/** What may be held in connections at once: the window, a frame that is being sent on each of them, and what control takes. */
export function heldBytesMax({ policy }: Scenario): number {
  const { windowBytesMax, connections } = resolvePolicy(policy);
  const frameBytes = (1 << 20) + (64 << 10);
  return windowBytesMax + connections * 2 * frameBytes + (4 << 20);
}
