import { MigrationError, type MigrationReport } from '../index.ts';
import type { Context } from './command.ts';
import { exitCodeOf } from './exit-code.ts';
import { reportJson } from './report-json.ts';
import { renderReport } from './report-view.ts';
import { UsageError } from './usage-error.ts';

/** How a command that migrates ends: its report is printed, and its exit code says who has the VM. */
export interface ConcludeOptions {
  readonly role: MigrationReport['role'];
  /** Whether the report is printed as JSON. */
  readonly json: boolean;
  /** The VM's identity, if the command line says it: for the report of a migration that never began. */
  readonly vmId?: string | undefined;
}

/**
 * Does the work, prints the report that it resolves to, and resolves to the exit code. What it rejects with,
 * before there was a migration to report on, is reported in the same form. Rejects only with `UsageError`, if
 * the work does.
 */
export async function conclude(
  context: Context,
  { role, json, vmId = '' }: ConcludeOptions,
  work: () => Promise<MigrationReport>,
): Promise<number> {
  const report = await work().catch((error) => notBegun(error, role, vmId));
  if (json) context.print(reportJson(report, report.error));
  else for (const line of renderReport(report)) context.print(line);
  return exitCodeOf(report);
}

/** A failure as a `MigrationError`. One that nobody foresaw says nothing of who has the VM. */
export function foreseen(error: unknown): MigrationError {
  if (error instanceof UsageError) throw error;
  if (error instanceof MigrationError) return error;
  const message = error instanceof Error ? error.message : String(error);
  return new MigrationError('internal', message, { owner: 'undecided', cause: error });
}

/** The report of a migration that never began. */
export function notBegun(thrown: unknown, role: MigrationReport['role'], vmId = ''): MigrationReport {
  const error = foreseen(thrown);
  return {
    role,
    vmId,
    epoch: 0,
    outcome: error.owner === 'undecided' ? 'undecided' : 'failed',
    owner: error.owner,
    error,
    totalMs: 0,
    downtimeMs: 0,
    switchoverAttempts: 0,
    phases: {},
    bytes: { memory: 0, disk: 0, unchanged: 0, mirror: 0, state: 0, wire: 0 },
    rounds: 0,
    throttleMax: 0,
    throttledMs: 0,
    guestWrites: { mirrored: 0, setBack: 0 },
    outages: [],
    lost: { throttleMs: 0, holdMs: 0, pauseMs: 0 },
    guestWriteHoldMs: 0,
    audit: { mode: 'off', units: 0, bytes: 0, differing: 0, missChance: 1 },
    roundTripMs: 0,
  };
}
