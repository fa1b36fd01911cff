/** What a migration is expected to take where nothing of it was seen yet: by the rule of convergence, and by predictions. */
import type { SourceVm } from '../interfaces/hypervisor.ts';

/** Device state, in bytes: what a small machine model of QEMU has. */
const smallStateBytes = 160 << 10;

/** ... of this VM, by what its backend says, and `savedBytes`, the most that was saved so far. */
export function stateBytesExpected(
  { deviceStateBytes }: Pick<SourceVm, 'deviceStateBytes'>,
  savedBytes = 0,
): number {
  return Math.max(deviceStateBytes ?? smallStateBytes, savedBytes);
}
/** What the destination needs to load it and start, over its flush: some milliseconds in a hypervisor. */
export const loadMsExpected = 20;
/** Stopping, saving, sealing, loading and starting: what a small machine takes of each, together. */
export const hypervisorMsExpected = 20;
/** Preparing a VM at the destination. */
export const prepareMsExpected = 50;
/** The destination's flush. */
export const flushMsExpected = 3;
/** What a last flight takes beyond the handover's round trips, more often than not. */
export const slowRoundTripsExpected = 0.75;

/**
 * Pages that may wait to be sent when the next round begins, as long as they take the link: it stays busy, and what the round reads is fresh. What waits of
 * the disks is not for the round to wait for: a guest that outruns the link there would keep it from ever ending.
 */
export const queueBetween = { ms: 5, least: 128 << 10, most: 1 << 20 };

/**
 * What of the claims' time, in ms, a downtime that is limited has to cover: half of what loading leaves of it at the most. A register that was slow when it was asked
 * is no reason never to switch over; that it is slow counts, but pages alone can be waited for.
 */
export function claimsMsCounted(claimsMs: number, downtimeMsMax: number): number {
  return Math.min(claimsMs, Math.max(0, downtimeMsMax - loadMsExpected) / 2);
}
