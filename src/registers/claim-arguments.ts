import { MigrationError } from '../errors.ts';
import type { ClaimRole, ClaimValue } from '../interfaces/register.ts';

/** What may be claimed in each role. */
export const valuesOfRole: Readonly<Record<ClaimRole, readonly ClaimValue[]>> = {
  source: ['given'],
  destination: ['owner', 'declined'],
  return: ['reclaimed'],
};

/** Throws `invalid-argument` unless `vmId` is a string of 1 to 255 characters. */
export function checkVmId(vmId: string): void {
  if (typeof vmId !== 'string' || vmId.length < 1 || vmId.length > 255) {
    throw new MigrationError('invalid-argument', 'vmId must be a string of 1 to 255 characters');
  }
}

/**
 * Throws `invalid-argument` unless the arguments make a claim: an epoch of 1 or more, a role, and a value
 * that goes with it.
 */
export function checkClaim(vmId: string, epoch: number, role: ClaimRole, value: ClaimValue): void {
  checkVmId(vmId);
  if (!Number.isSafeInteger(epoch) || epoch < 1) {
    throw new MigrationError(
      'invalid-argument',
      `epoch must be a safe integer of 1 or more, not ${String(epoch)}`,
    );
  }
  if (!Object.hasOwn(valuesOfRole, role)) {
    throw new MigrationError('invalid-argument', `there is no role '${String(role)}' in a register`);
  }
  if (!valuesOfRole[role].includes(value)) {
    throw new MigrationError(
      'invalid-argument',
      `'${String(value)}' cannot be claimed in the role '${role}'`,
    );
  }
}
