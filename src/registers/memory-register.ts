import type { Claim, OwnershipRegister } from '../interfaces/register.ts';
import { checkClaim, checkVmId } from './claim-arguments.ts';

/**
 * A register in this process's memory, for tests and simulations: write-once like any other, durable for as
 * long as the object lives. Give one to both ends to simulate a shared register, or one to each. Rejects only
 * with `invalid-argument`, for arguments that make no claim; then nothing has changed.
 */
export function memoryRegister(): OwnershipRegister {
  const vms = new Map<string, Map<string, Claim>>();
  return {
    async claim(vmId, epoch, role, value) {
      checkClaim(vmId, epoch, role, value);
      const claims = vms.get(vmId) ?? new Map<string, Claim>();
      vms.set(vmId, claims);
      const key = `${epoch}.${role}`;
      const standing = claims.get(key) ?? Object.freeze({ epoch, role, value });
      claims.set(key, standing);
      return standing.value;
    },
    async read(vmId) {
      checkVmId(vmId);
      return [...(vms.get(vmId)?.values() ?? [])];
    },
  };
}
