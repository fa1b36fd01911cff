import { MigrationError } from '../errors.ts';
import type { DiskMode, MigrationPolicy } from '../interfaces/migration.ts';

/** A policy with every default filled in. */
export type ResolvedPolicy = Required<
  Omit<MigrationPolicy, 'connections' | 'rateBytesPerSecondMax' | 'mirrorBufferBytesMax' | 'timeoutMs'>
> & {
  /** Undefined: automatic. */
  readonly connections: number | undefined;
  /** Undefined: automatic. */
  readonly mirrorBufferBytesMax: number | undefined;
  /** Undefined: no limit. */
  readonly rateBytesPerSecondMax: number | undefined;
  /** Undefined: no limit. */
  readonly timeoutMs: number | undefined;
};

interface Limits {
  /** Undefined: without the field, there is no number. */
  readonly default: number | undefined;
  readonly min: number;
  readonly max: number;
  readonly integer: boolean;
}

type NumberField = {
  [K in keyof ResolvedPolicy]: ResolvedPolicy[K] extends number | undefined ? K : never;
}[keyof ResolvedPolicy];

const limits: Readonly<Record<NumberField, Limits>> = {
  connections: { default: undefined, min: 1, max: 256, integer: true },
  downtimeMsMax: { default: 300, min: 30, max: 60_000, integer: false },
  stunMsMax: { default: 10_000, min: 100, max: 600_000, integer: false },
  switchoverAttemptsMax: { default: 3, min: 1, max: 100, integer: true },
  guestWriteHoldMsMax: { default: 0, min: 0, max: 10_000, integer: false },
  throttleMax: { default: 0.8, min: 0, max: 0.99, integer: false },
  timeoutMs: { default: undefined, min: 1000, max: 604_800_000, integer: false },
  roundsMax: { default: 200, min: 2, max: 100_000, integer: true },
  mirrorBufferBytesMax: { default: undefined, min: 1 << 20, max: 4 * 1024 ** 3, integer: true },
  windowBytesMax: { default: 256 << 20, min: 1 << 20, max: 4 * 1024 ** 3, integer: true },
  rateBytesPerSecondMax: { default: undefined, min: 65_536, max: 1e12, integer: false },
  connectMsMax: { default: 30_000, min: 100, max: 3_600_000, integer: false },
  silenceMsMax: { default: 5000, min: 1000, max: 600_000, integer: true },
  outageMsMax: { default: 600_000, min: 0, max: 86_400_000, integer: true },
  decideMsMax: { default: 30_000, min: 100, max: 3_600_000, integer: false },
};

const diskModes: readonly DiskMode[] = ['copy', 'shared', 'leave'];

type ChoiceField =
  | 'onTimeout'
  | 'handover'
  | 'seed'
  | 'audit'
  | 'memory'
  | 'slowDisk'
  | 'copyWhileStunned'
  | 'compression';

const choices: {
  readonly [K in ChoiceField]: {
    readonly default: ResolvedPolicy[K];
    readonly allowed: readonly (string | boolean)[];
  };
} = {
  onTimeout: { default: 'cancel', allowed: ['cancel', 'force'] },
  handover: { default: 'confirmed', allowed: ['confirmed', 'one-flight'] },
  seed: { default: 'none', allowed: ['none', 'compare'] },
  audit: { default: 'sample', allowed: ['off', 'sample', 'full'] },
  memory: { default: 'copy', allowed: ['copy', 'none'] },
  slowDisk: { default: 'throttle', allowed: ['throttle', 'fail'] },
  copyWhileStunned: { default: false, allowed: [false, true] },
  compression: { default: 'off', allowed: ['off', 'auto'] },
};

/** Fills in defaults, and what one setting makes of another: with `audit: 'full'` the handover is `confirmed`. Throws `invalid-argument` naming the first field that is out of its range, or unknown. */
export function resolvePolicy(policy: MigrationPolicy = {}): ResolvedPolicy {
  const resolved: Record<string, unknown> = {};
  for (const [field, { default: standard, min, max, integer }] of Object.entries(limits)) {
    const value: unknown = policy[field as NumberField] ?? standard;
    if (value === undefined) continue;
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
  for (const [field, { default: standard, allowed }] of Object.entries(choices)) {
    const value = policy[field as ChoiceField] ?? standard;
    if (!allowed.includes(value)) {
      const names = allowed.join(' or ');
      throw new MigrationError('invalid-argument', `policy.${field} must be ${names}, not ${value}`);
    }
    resolved[field] = value;
  }
  // All that there is to compare would be many messages, and some answers, before FINAL.
  if (resolved.audit === 'full') resolved.handover = 'confirmed';
  for (const field of Object.keys(policy)) {
    if (field !== 'disks' && !Object.hasOwn(choices, field) && !Object.hasOwn(limits, field)) {
      throw new MigrationError('invalid-argument', `policy.${field} is not a setting`);
    }
  }
  const unset = {
    connections: undefined,
    rateBytesPerSecondMax: undefined,
    mirrorBufferBytesMax: undefined,
    timeoutMs: undefined,
  };
  return { ...unset, ...resolved, disks: { ...policy.disks } } as unknown as ResolvedPolicy;
}
