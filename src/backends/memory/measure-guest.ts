import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { GuestMeasurement, MeasureOptions } from '../../interfaces/hypervisor.ts';
import { delay } from '../../util/promises.ts';
import { requireArgument } from './arguments.ts';
import type { GuestMemory } from './guest-memory.ts';
import type { TappedDisk } from './tapped-disk.ts';
import type { LifeState } from './vm-lifecycle.ts';

/** What of a VM is looked at. */
export interface MeasuredGuest {
  readonly memory: GuestMemory;
  readonly disks: readonly TappedDisk[];
  readonly environment: Environment;
  readonly state: () => LifeState;
}

/** Pages that are looked at for zeros. */
const SAMPLES = 4096;

/** See `SourceVm.measure`. */
export async function measureGuest(
  { memory, disks, environment, state }: MeasuredGuest,
  { durationMs, signal }: MeasureOptions,
): Promise<GuestMeasurement> {
  requireArgument(durationMs >= 50 && durationMs <= 60_000, `it cannot be looked at for ${durationMs} ms`);
  requireThere(memory, state());
  const written = () => disks.map((disk) => [disk.id, disk.writtenBytes] as const);
  const before = new Map(written());
  const dirtied = memory.look();
  const beganMs = environment.now();
  try {
    await delay(environment, durationMs, signal);
  } catch (error) {
    dirtied();
    throw error;
  }
  requireThere(memory, state());
  return {
    durationMs: environment.now() - beganMs,
    dirtiedBytes: dirtied(),
    writtenBytes: Object.fromEntries(written().map(([id, bytes]) => [id, bytes - (before.get(id) ?? 0)])),
    usedBytes: memory.usedBytes(SAMPLES),
  };
}

function requireThere(memory: GuestMemory, state: LifeState): void {
  if (memory.freed) throw new MigrationError('hypervisor', 'the VM is gone', { guest: 'lost' });
  if (state === 'running' || state === 'paused') return;
  throw new MigrationError('invalid-state', `measure: the VM is ${state}`);
}
