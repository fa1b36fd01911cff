/**
 * What a guest writes, as QEMU tells it: of its memory by comparing samples of pages with themselves (`calc-dirty-rate`), which works under KVM and
 * emulation alike and needs no dirty log; of its disks by its counters.
 */
import { asMigrationError, MigrationError } from '../../errors.ts';
import type { GuestMeasurement, MeasureOptions } from '../../interfaces/hypervisor.ts';
import { nodeEnvironment } from '../../util/node-environment.ts';
import { delay } from '../../util/promises.ts';
import type { QmpClient, QmpObject } from './qmp.ts';
import { objectOf } from './qmp-values.ts';
import { readWrittenBytes } from './vm-inventory.ts';

/** Which VM. */
export interface MeasuredVm {
  readonly qmp: QmpClient;
  readonly memoryBytes: number;
  /** Their ids. */
  readonly disks: readonly string[];
}

/** Pages that are compared, all together: each costs a checksum at the beginning and one at the end. */
const samplesWanted = 32_768;
/** What QEMU takes, for each gibibyte. */
const samplesMin = 512;
const samplesMax = 16_384;
/** It tells the rate in whole MiB a second. */
const mebibyte = 2 ** 20;
/** What QEMU 8.1, which counts in seconds, can look for at the least. */
const secondMs = 1000;
/** It tells by no event that it has measured. */
const pollMs = 20;
/** The longest that it can have been told to look, and to compare what it saw. */
const measureMsMax = 75_000;

/** See `SourceVm.measure`. */
export async function measureGuest(vm: MeasuredVm, options: MeasureOptions): Promise<GuestMeasurement> {
  const { durationMs, signal } = options;
  if (!(durationMs >= 50 && durationMs <= 60_000)) {
    throw new MigrationError('invalid-argument', `a guest cannot be looked at for ${durationMs} ms`);
  }
  try {
    return await measure(vm, Math.round(durationMs), signal);
  } catch (error) {
    throw asMigrationError(error, 'hypervisor');
  }
}

async function measure(
  { qmp, memoryBytes, disks }: MeasuredVm,
  durationMs: number,
  signal: AbortSignal | undefined,
): Promise<GuestMeasurement> {
  // One that was given up goes on by itself, and another one may not begin before.
  await measured(qmp, ['measured', 'unstarted'], signal);
  const before = await readWrittenBytes(qmp, disks, signal);
  const beganMs = performance.now();
  const unit = await begin(qmp, memoryBytes, durationMs, signal);
  // It is begun in a thread of its own, and until then it is said not to be.
  const { 'dirty-rate': rate, 'calc-time': looked } = await measured(qmp, ['measured'], signal, unit);
  // It looks for longer than it is told to: for as long as it takes to sum up its samples.
  const lookedMs =
    typeof looked === 'number' && looked > 0 ? looked * (unit === undefined ? secondMs : 1) : durationMs;
  if (typeof rate !== 'number' || rate < 0)
    throw new MigrationError('hypervisor', 'QEMU measured no dirty rate');
  const after = await readWrittenBytes(qmp, disks, signal);
  // The counters were read a little before and after.
  const share = lookedMs / Math.max(lookedMs, performance.now() - beganMs);
  const writtenBytes = [...after].flatMap(([id, bytes]) => {
    const earlier = before.get(id);
    return earlier === undefined ? [] : [[id, Math.max(0, bytes - earlier) * share] as const];
  });
  return {
    durationMs: lookedMs,
    dirtiedBytes: Math.min(memoryBytes, (rate * mebibyte * lookedMs) / 1000),
    writtenBytes: Object.fromEntries(writtenBytes),
  };
}

const exactUnit = { 'calc-time-unit': 'millisecond' } as const;

/** Resolves to the unit that it counts in; undefined: seconds, and it knows of no other. */
async function begin(
  qmp: QmpClient,
  memoryBytes: number,
  durationMs: number,
  signal: AbortSignal | undefined,
): Promise<typeof exactUnit | undefined> {
  const perGibibyte = Math.round((samplesWanted * 2 ** 30) / Math.max(1, memoryBytes));
  const samples = { 'sample-pages': Math.min(samplesMax, Math.max(samplesMin, perGibibyte)) };
  const exact = { 'calc-time': durationMs, ...exactUnit, ...samples };
  try {
    await qmp.execute('calc-dirty-rate', exact, { signal });
    return exactUnit;
  } catch (error) {
    if (!/calc-time-unit/.test(String(error))) throw error;
  }
  const seconds = Math.max(1, Math.round(durationMs / secondMs));
  await qmp.execute('calc-dirty-rate', { 'calc-time': seconds, ...samples }, { signal });
  return undefined;
}

/** Resolves to what QEMU says once it is at one of these. */
async function measured(
  qmp: QmpClient,
  wanted: readonly string[],
  signal: AbortSignal | undefined,
  unit: typeof exactUnit | undefined = undefined,
): Promise<QmpObject> {
  const deadlineMs = performance.now() + measureMsMax;
  for (;;) {
    const answer = objectOf(await qmp.execute('query-dirty-rate', { ...unit }, { signal }), 'dirty rate');
    if (wanted.includes(String(answer.status))) return answer;
    if (performance.now() > deadlineMs) {
      throw new MigrationError('hypervisor', 'QEMU does not come to the end of measuring the dirty rate');
    }
    await delay(nodeEnvironment, pollMs, signal);
  }
}
