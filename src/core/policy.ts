import { MigrationError } from '../errors.ts';
import type { DiskMode, MigrationPolicy } from '../interfaces/migration.ts';

/** A policy with every default filled in. */
export type ResolvedPolicy = Required<MigrationPolicy>;

interface Limits {
  readonly default: number;
  readonly min: number;
  readonly max: number;
  readonly integer: boolean;
}

type NumberField = {
  [K in keyof ResolvedPolicy]: ResolvedPolicy[K] extends number ? K : never;
}[keyof ResolvedPolicy];

const limits: Readonly<Record<NumberField, Limits>> = {
  connections: { default: 4, min: 1, max: 64, integer: true },
  downtimeMsMax: { default: 300, min: 30, max: 60_000, integer: false },
  stunMsMax: { default: 10_000, min: 100, max: 600_000, integer: false },
  guestWriteHoldMsMax: { default: 0, min: 0, max: 10_000, integer: false },
  throttleMax: { default: 0.8, min: 0, max: 0.99, integer: false },
  roundsMax: { default: 200, min: 2, max: 100_000, integer: true },
  mirrorBufferBytesMax: { default: 64 << 20, min: 1 << 20, max: 4 * 1024 ** 3, integer: true },
  windowBytesMax: { default: 64 << 20, min: 1 << 20, max: 4 * 1024 ** 3, integer: true },
  connectMsMax: { default: 30_000, min: 100, max: 3_600_000, integer: false },
  decideMsMax: { default: 30_000, min: 100, max: 3_600_000, integer: false },
};

const diskModes: readonly DiskMode[] = ['copy', 'shared', 'leave'];

/** Fills in defaults. Throws `invalid-argument` naming the first field that is out of its range, or unknown. */
export function resolvePolicy(policy: MigrationPolicy = {}): ResolvedPolicy {
  const resolved: Record<string, unknown> = {};
  for (const [field, { default: standard, min, max, integer }] of Object.entries(limits)) {
    const value: unknown = policy[field as NumberField] ?? standard;
    const fits =
      typeof value === 'number' && value >= min && value <= max && (!integer || Number.isInteger(value));
    if (!fits) {
      const kind = integer ? 'a whole number' : 'a number';
      throw new MigrationError(
        'invalid-argument',
        `policy.${field} must be ${kind} from ${min} to ${max}, not ${value}`,
      );
    }
    resolved[field] = value;
  }
  for (const [id, mode] of Object.entries(policy.disks ?? {})) {
    if (!diskModes.includes(mode)) {
      throw new MigrationError(
        'invalid-argument',
        `policy.disks.${id} must be copy, shared or leave, not ${mode}`,
      );
    }
  }
  for (const field of Object.keys(policy)) {
    if (field !== 'disks' && !Object.hasOwn(limits, field)) {
      throw new MigrationError('invalid-argument', `policy.${field} is not a setting`);
    }
  }
  return { ...resolved, disks: { ...policy.disks } } as unknown as ResolvedPolicy;
}
