import { MigrationError, type MigrationReport, type RecoveryReport } from '../index.ts';

/** An error as JSON has it. What is not known, or was no `MigrationError`, is null. */
export interface ErrorJson {
  readonly code: string | null;
  readonly message: string;
  readonly phase: string | null;
  readonly owner: string | null;
  readonly guest: string | null;
  readonly cause: ErrorJson | null;
}

/** Causes that are followed at most. */
const depthMax = 5;

/** A report as one JSON object on one line: its fields, with `error` as {@link ErrorJson} or null. */
export function reportJson(
  report: MigrationReport | RecoveryReport,
  error: MigrationError | undefined,
  more: Readonly<Record<string, unknown>> = {},
): string {
  return JSON.stringify({ ...report, error: error === undefined ? null : errorJson(error), ...more });
}

/** What is left to say, in place of a report, after an error that nobody foresaw. */
export function unforeseenJson(error: unknown): string {
  return JSON.stringify({ outcome: 'undecided', owner: 'undecided', error: errorJson(error) });
}

/** An error, and what it was caused by. */
export function errorJson(error: unknown, depth = 1): ErrorJson {
  const { code, phase, owner, guest } = describe(error);
  const cause = error instanceof Error && error.cause !== undefined && depth < depthMax;
  return {
    code,
    message: error instanceof Error ? error.message : String(error),
    phase,
    owner,
    guest,
    cause: cause ? errorJson(error.cause, depth + 1) : null,
  };
}

function describe(error: unknown): Omit<ErrorJson, 'message' | 'cause'> {
  if (error instanceof MigrationError) return error;
  const code = error instanceof Error && 'code' in error ? String(error.code) : null;
  return { code, phase: null, owner: null, guest: null };
}
