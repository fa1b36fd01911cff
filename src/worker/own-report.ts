import { AuditTally } from '../core/audit/audit-tally.ts';
import { nothingLost } from '../core/nothing-lost.ts';
import type { MigrationError } from '../errors.ts';
import type { MigrationReport } from '../interfaces/migration.ts';

/**
 * The report of a source whose engine did not come to write one: how it ended follows from who owns the VM.
 */
export function ownReport(
  error: MigrationError,
  known: Partial<Pick<MigrationReport, 'vmId' | 'epoch' | 'totalMs'>>,
): MigrationReport {
  const { owner } = error;
  return {
    role: 'source',
    vmId: '',
    epoch: 0,
    outcome: owner === 'source' ? 'failed' : owner === 'destination' ? 'completed' : 'undecided',
    owner,
    error,
    totalMs: 0,
    downtimeMs: 0,
    switchoverAttempts: 0,
    phases: {},
    outages: [],
    lost: nothingLost,
    bytes: { memory: 0, disk: 0, unchanged: 0, mirror: 0, state: 0, wire: 0 },
    rounds: 0,
    throttleMax: 0,
    throttledMs: 0,
    guestWrites: { mirrored: 0, setBack: 0 },
    guestWriteHoldMs: 0,
    audit: new AuditTally('off').report,
    roundTripMs: 0,
    ...known,
  };
}
