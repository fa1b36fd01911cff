/**
 * The three claims of one attempt (epoch) at moving a VM. `source`: the source gave the VM away (`given`). `destination`: the
 * destination took it (`owner`) or never will (`declined`). `return`: the source has it back after `declined` (`reclaimed`).
 */
export type ClaimRole = 'source' | 'destination' | 'return';

/** What can be claimed. Which value goes with which role is said at {@link ClaimRole}. */
export type ClaimValue = 'given' | 'owner' | 'declined' | 'reclaimed';

/** A claim that stands. */
export interface Claim {
  /** The attempt: 1 or more, a safe integer. */
  readonly epoch: number;
  /** What was claimed ... */
  readonly role: ClaimRole;
  /** ... and what stands there. */
  readonly value: ClaimValue;
}

/**
 * Where ownership is claimed, once. Each end may have its own (a directory on each host), or both may share one (a control plane's database); then
 * no crash leaves the owner undecided. A store needs only compare-and-set to serve.
 */
export interface OwnershipRegister {
  /**
   * Claims a role of an attempt, if nobody has yet, and resolves to the value that stands, whoever claimed it. Durable when it resolves.
   * After a rejection (`register`) nothing is known: the claim may stand. Calling it again is always safe.
   */
  claim(vmId: string, epoch: number, role: ClaimRole, value: ClaimValue): Promise<ClaimValue>;
  /**
   * Makes ready for a claim for this VM: whatever the first one would otherwise have to do beside its own record (a directory, a connection). Claims nothing, and takes about as long as a claim; the
   * engine times it, and calls it a few times while the guest runs, because it stands still for the claims. Optional: without it, reading is timed. A rejection says nothing of a claim.
   */
  prepare?(vmId: string): Promise<void>;
  /** Every claim that stands for a VM, in any order. Rejects with `register` if a record cannot be believed. */
  read(vmId: string): Promise<readonly Claim[]>;
}
