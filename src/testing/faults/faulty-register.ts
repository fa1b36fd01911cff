import type { ClaimValue, OwnershipRegister } from '../../interfaces/register.ts';
import { type CallFault, type FaultOptions, FaultSchedule } from './fault-plan.ts';

/** What can go wrong with a register. */
export type RegisterFault = CallFault<'claim' | 'prepare' | 'read'> & {
  /** Only claims of this value. Default: any. */
  readonly value?: ClaimValue;
};

/**
 * A register with faults. A claim that `fail`s does not stand; one that fails with `fail-afterwards` stands
 * although its caller does not know. Throws `invalid-argument` for a plan that makes no sense.
 */
export function faultyRegister(
  inner: OwnershipRegister,
  plan: readonly RegisterFault[],
  options?: FaultOptions,
): OwnershipRegister {
  const faults = new FaultSchedule(plan, ['claim', 'prepare', 'read'], options);
  return {
    claim: (vmId, epoch, role, value) =>
      faults.call(
        'claim',
        undefined,
        () => inner.claim(vmId, epoch, role, value),
        (fault) => fault.value === undefined || fault.value === value,
      ),
    ...(inner.prepare === undefined
      ? {}
      : {
          prepare: (vmId: string) =>
            faults.call('prepare', undefined, async () => await inner.prepare?.(vmId)),
        }),
    read: (vmId) => faults.call('read', undefined, () => inner.read(vmId)),
  };
}
