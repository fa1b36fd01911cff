import { type GuestState, MigrationError, messageOf, type Owner } from '../errors.ts';
import type { UnexpectedStop } from '../interfaces/hypervisor.ts';

export function guestStopped(stop: UnexpectedStop): MigrationError {
  const code = stop.kind === 'gone' ? 'hypervisor' : 'guest-stopped';
  return new MigrationError(code, stop.reason, { guest: stop.kind === 'paused' ? 'paused' : 'lost' });
}

/** What a migration that completed could not let go of at the source, if anything. */
export function leftBehind(
  problems: readonly unknown[],
  owner: Owner = 'destination',
): MigrationError | undefined {
  if (problems.length === 0) return undefined;
  return new MigrationError('hypervisor', `the source could not be let go of: ${messages(problems)}`, {
    phase: 'release',
    owner,
    guest: 'running',
    cause: problems[0],
  });
}

function messages(problems: readonly unknown[]): string {
  return problems.map(messageOf).join('; ');
}

/** The error as the caller gets it: with where things stand, and with what could not be put right. */
export function describe(
  error: MigrationError,
  problems: readonly unknown[],
  details: { readonly phase: MigrationError['phase']; readonly guest: GuestState },
): MigrationError {
  const message = problems.length === 0 ? error.message : `${error.message}; and then: ${messages(problems)}`;
  return new MigrationError(error.code, message, {
    ...details,
    owner: 'source',
    cause: error.cause ?? problems[0],
  });
}
