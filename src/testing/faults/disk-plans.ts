import { MigrationError } from '../../errors.ts';

/** Throws `invalid-argument` if the plans name a disk that is not among these. */
export function requireDisks(
  disks: readonly { readonly id: string }[],
  plans: Readonly<Record<string, unknown>> | undefined,
): void {
  for (const id of Object.keys(plans ?? {})) {
    if (disks.some((disk) => disk.id === id)) continue;
    throw new MigrationError('invalid-argument', `the plan has faults of disk ${id}, which is not there`);
  }
}
