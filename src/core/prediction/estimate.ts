/** What a migration will come to, before it: the guest, the link and the disks are looked at, and nothing is changed. */
import type { Channel } from '../../channel/channel.ts';
import { MigrationError } from '../../errors.ts';
import type { SourceDisk } from '../../interfaces/block-device.ts';
import type { Chunks } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { GuestMeasurement, SourceVm } from '../../interfaces/hypervisor.ts';
import type { Estimate } from '../../interfaces/migration.ts';
import type { OwnershipRegister } from '../../interfaces/register.ts';
import { onAbort } from '../../util/on-abort.ts';
import { raceAbort, throwIfAborted } from '../../util/promises.ts';
import { sampleMsMax, sampleUnits } from '../audit/audit-units.ts';
import {
  flushMsExpected,
  hypervisorMsExpected,
  prepareMsExpected,
  slowRoundTripsExpected,
  stateBytesExpected,
} from '../expected.ts';
import { makeReady, timeCall } from '../handover/claim-time.ts';
import type { ResolvedPolicy } from '../policy.ts';
import type { DiskForecast, ForecastInputs } from './forecast.ts';
import { lookAtDisk } from './look-at-disk.ts';
import { predict, usualDoubts } from './predict.ts';
import { type LinkLook, probeLink } from './probe-link.ts';
import { type CodecLook, gainOf, lateMsExpected, sampleMemory, tryCodec } from './try-codec.ts';
import { dirtiedIn, type WorkingSet, workingSetOf } from './working-set.ts';

export interface EstimateParts {
  readonly vm: SourceVm;
  /** Those that are copied. */
  readonly disks: readonly SourceDisk[];
  readonly register: OwnershipRegister;
  readonly environment: Environment;
  readonly connect: (signal: AbortSignal) => Promise<Channel>;
  readonly durationMs: number;
  /** Says whether content may be compressed, and whether memory moves. Default: it may not. */
  readonly policy?: Pick<ResolvedPolicy, 'compression' | 'memory'>;
  readonly signal: AbortSignal | undefined;
}

/** A disk, as it was seen. */
export interface MeasuredDisk {
  readonly id: string;
  readonly sizeBytes: number;
  /** What there is to send of it, in bytes. */
  readonly contentBytes: number;
  /** How fast it is read. */
  readonly bytesPerSecond: number | undefined;
  /** What the guest writes, in bytes a second. */
  readonly guestBytesPerSecond: number | undefined;
  /** What one small read takes, in ms. */
  readonly readMs: number;
  /** It is copied with the guest stunned. */
  readonly unseen: boolean;
}

/** All that was seen: the migration that follows goes by it too. */
export interface Measured {
  readonly workingSet: WorkingSet;
  readonly memoryBytes: number;
  /** What of it an audit can read. */
  readonly auditedBytes: number;
  /** Pages that hold something; undefined: not known. */
  readonly usedBytes: number | undefined;
  readonly disks: readonly MeasuredDisk[];
  readonly link: LinkLook;
  readonly connectMs: number;
  readonly registerMs: number;
  /** Device state, as far as it is known. */
  readonly stateBytes: number;
  /** What the codec made of samples of memory and of the disks; undefined: nothing will be compressed, or it could not be seen. */
  readonly memoryCodec?: CodecLook | undefined;
  readonly diskCodec?: CodecLook | undefined;
}

/** For how long guest and link are looked at, if nobody says so. */
export const measuringMsDefault = 3000;
/**
 * Looks at what the guest dirties, as parts of the time: what it writes again and again shows in a moment, what it comes back to in seconds.
 */
const lookParts = [1 / 30, 1 / 6, 4 / 5] as const;
/** Reads that the audit has in flight on a disk. */
const auditReadsAtOnce = 8;
/** An audit of everything reads and compares no more in a second. */
const auditBytesPerSecond = 1 << 30;
/** What new connections send in their first round trip, all together; in each that follows it is twice as much, until the link is full. */
const firstWindowBytes = 4 * 14_600;

/** Memory of which nobody knows how much is zeros: from a third of it to all. */
const usedShareExpected = 0.6;
const contentDoubt = 1.7;

/** Throws `invalid-argument` for a time in which nothing can be measured, or that nobody has. */
export function checkMeasuringTime(durationMs: number): void {
  if (durationMs >= 500 && durationMs <= 60_000) return;
  throw new MigrationError('invalid-argument', `durationMs must be from 500 to 60000, not ${durationMs}`);
}

/** Throws `unsupported` for a VM that cannot be measured; rejects with what connecting, the VM, a disk or the register rejects with. */
export async function measureMigration(parts: EstimateParts): Promise<Measured> {
  const { vm, signal } = parts;
  if (!vm.capabilities.measure) {
    throw new MigrationError(
      'unsupported',
      'this hypervisor cannot tell what a guest writes before it is migrated',
    );
  }
  const over = new AbortController();
  const takeBack = signal && onAbort(signal, () => over.abort(signal.reason));
  return measure(parts, over).finally(takeBack);
}

/** What a claim takes, in ms, or, where disks move alone and nothing is claimed, a read: the first look may have connected, or made a directory. */
async function warmClaim({ register, vm, environment, policy }: EstimateParts): Promise<number> {
  const { vmId } = vm.description;
  const look = () => (policy?.memory === 'none' ? register.read(vmId) : makeReady(register, vmId));
  const firstMs = await timeCall(environment, look);
  return Math.min(firstMs, await timeCall(environment, look));
}

async function measure(parts: EstimateParts, over: AbortController): Promise<Measured> {
  const { vm, environment, durationMs, disks, policy } = parts;
  const { signal } = over;
  const beganMs = environment.now();
  const channel = await parts.connect(signal);
  const connectMs = environment.now() - beganMs;
  try {
    const registerMs = await raceAbort(warmClaim(parts), signal);
    const guest = lookAtGuest(vm, durationMs, signal);
    guest.catch(() => {});
    const link = await probeLink(channel, environment, durationMs, signal);
    const { looks, usedBytes, writtenPerSecond } = await raceAbort(guest, signal);
    const [codec] = policy?.compression === 'auto' ? (environment.codecs ?? []) : [];
    const content: Uint8Array[] = [];
    const onContent = codec && ((chunks: Chunks) => content.push(...chunks));
    const seen = await Promise.all(
      disks.map(async (disk) => ({
        id: disk.id,
        sizeBytes: disk.sizeBytes,
        ...(await lookAtDisk(disk, environment, { signal, onContent })),
        guestBytesPerSecond: writtenPerSecond.get(disk.id),
        unseen: !disk.readOnly && disk.tapCapability === 'none',
      })),
    );
    const tried = async (some: Chunks) => codec && tryCodec(codec, environment, some, { signal });
    const diskCodec = await tried(content);
    const readsMemory = codec && vm.capabilities.auditMemory && policy?.memory !== 'none';
    const memoryCodec = await tried(readsMemory ? await sampleMemory(vm.memory, { signal }) : []);
    throwIfAborted(signal);
    channel.send({ type: 'bye' });
    const memoryBytes = vm.memory.regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    return {
      workingSet: workingSetOf(looks, memoryBytes),
      memoryBytes,
      auditedBytes: vm.capabilities.auditMemory ? memoryBytes : 0,
      usedBytes,
      disks: seen,
      link,
      connectMs,
      registerMs,
      stateBytes: stateBytesExpected(vm),
      memoryCodec,
      diskCodec,
    };
  } finally {
    over.abort(new MigrationError('aborted', 'the estimate is over'));
    await closeSoon(channel, environment);
  }
}

async function lookAtGuest(vm: SourceVm, durationMs: number, signal: AbortSignal) {
  const looks: GuestMeasurement[] = [];
  for (const part of lookParts)
    looks.push(await vm.measure({ durationMs: Math.max(50, durationMs * part), signal }));
  const allMs = looks.reduce((sum, look) => sum + look.durationMs, 0);
  const writtenPerSecond = new Map(
    Object.keys(looks.at(-1)?.writtenBytes ?? {}).map((id) => {
      const all = looks.reduce((sum, { writtenBytes }) => sum + (writtenBytes[id] ?? 0), 0);
      return [id, allMs > 0 ? (1000 * all) / allMs : 0] as const;
    }),
  );
  return { looks, usedBytes: looks.at(-1)?.usedBytes, writtenPerSecond };
}

/** What was said is sent first, if the peer takes it within a second. */
async function closeSoon(channel: Channel, environment: Environment): Promise<void> {
  const cancel = environment.setTimer(1000, () =>
    channel.abort(new MigrationError('timeout', 'the connection did not close in time')),
  );
  await channel.close().catch(() => {});
  cancel();
  channel.abort(new MigrationError('connection-lost', 'the estimate is over'));
}

/** What an audit is of: what of memory it can read, and the disks that are copied. */
export interface Audited {
  readonly memoryBytes: number;
  readonly disks: readonly Pick<MeasuredDisk, 'sizeBytes' | 'contentBytes' | 'bytesPerSecond' | 'readMs'>[];
}

/**
 * What the audit adds to the downtime. Of a sample each end reads units of each disk beside the others, for a limited time; of everything it reads one after the
 * other, also what holds nothing, which is no slower to read than memory.
 */
export function auditMsExpected({ audit }: ResolvedPolicy, { memoryBytes, disks }: Audited): number {
  if (audit === 'off') return 0;
  if (audit === 'sample') {
    const slowestMs = disks.reduce((most, { readMs }) => Math.max(most, readMs), 0);
    return Math.min(sampleMsMax, (sampleUnits / 2 / auditReadsAtOnce) * slowestMs);
  }
  const readMs = (bytes: number, bytesPerSecond = auditBytesPerSecond) =>
    (1000 * bytes) / Math.min(bytesPerSecond, auditBytesPerSecond);
  return disks.reduce(
    (sum, { sizeBytes, contentBytes, bytesPerSecond }) =>
      sum + readMs(contentBytes, bytesPerSecond) + readMs(Math.max(0, sizeBytes - contentBytes)),
    readMs(memoryBytes),
  );
}

/** What connecting and preparing take, all in all; nothing is expected of what was not measured. */
export function setupMsExpected({
  connectMs = 0,
  registerMs = 0,
  link,
}: Partial<Pick<Measured, 'connectMs' | 'registerMs' | 'link'>>): number {
  return connectMs + 2 * registerMs + (link === undefined ? 0 : beginsMs(link)) + prepareMsExpected;
}

/** A question and its answer, and until connections are as fast as the link. */
function beginsMs({ roundTripMs, bytesPerSecond }: LinkLook): number {
  const inFlightBytes = (bytesPerSecond * roundTripMs) / 1000;
  return roundTripMs * (1 + Math.log2(Math.max(1, inFlightBytes / firstWindowBytes)));
}

/** The disks that are copied while the guest runs, before anything of them was. */
export function disksExpected(disks: readonly MeasuredDisk[]): readonly DiskForecast[] {
  return disks
    .filter(({ unseen }) => !unseen)
    .map(({ contentBytes, bytesPerSecond, guestBytesPerSecond = 0 }) => ({
      restBytes: contentBytes,
      guestBytesPerSecond,
      bytesPerSecondMax: bytesPerSecond,
    }));
}

/** What compression is expected to be good for over such a link. */
export function gainsExpected(
  { memoryCodec, diskCodec }: Partial<Pick<Measured, 'memoryCodec' | 'diskCodec'>>,
  linkBytesPerSecond: number,
): Required<Pick<ForecastInputs, 'gain' | 'diskGain'>> {
  return { gain: gainOf(memoryCodec, linkBytesPerSecond), diskGain: gainOf(diskCodec, linkBytesPerSecond) };
}

/** What a migration from the beginning goes by. */
function inputsBefore(measured: Measured, policy: ResolvedPolicy): ForecastInputs {
  const { link, registerMs, disks, workingSet, usedBytes } = measured;
  const disksAlone = policy.memory === 'none';
  const passRestBytes = disksAlone ? 0 : (usedBytes ?? usedShareExpected * measured.memoryBytes);
  const diskForecasts = disksExpected(disks);
  const diskBytes = diskForecasts.reduce((sum, { restBytes }) => sum + restBytes, 0);
  const gains = gainsExpected(measured, link.bytesPerSecond);
  const firstGain = diskBytes > 0 ? gains.diskGain : gains.gain;
  return {
    setupMs: setupMsExpected(measured) + lateMsExpected(firstGain, diskBytes + passRestBytes, link),
    disks: diskForecasts,
    stunBytes: disks.reduce((sum, { unseen, contentBytes }) => sum + (unseen ? contentBytes : 0), 0),
    passRestBytes,
    passedMs: 0,
    workingSet,
    linkBytesPerSecond: link.bytesPerSecond,
    ...gains,
    roundTripMs: link.roundTripMs,
    claimMs: registerMs,
    flushMs: flushMsExpected,
    hypervisorMs: hypervisorMsExpected,
    stateBytes: measured.stateBytes,
    auditMs: auditMsExpected(policy, { memoryBytes: disksAlone ? 0 : measured.auditedBytes, disks }),
    slowRoundTrips: slowRoundTripsExpected,
    handover: policy.handover,
    throttle: 0,
    policy,
    rounds: 0,
    disksAlone,
  };
}

export function estimateOf(measured: Measured, policy: ResolvedPolicy): Estimate {
  const { rest, downtime, converges, throttle, likely } = predict(inputsBefore(measured, policy), {
    ...usualDoubts,
    ...(measured.usedBytes === undefined ? { content: contentDoubt } : {}),
  });
  const { link, workingSet, disks } = measured;
  return Object.freeze({
    total: rest,
    downtime,
    converges,
    throttle,
    bytes: Math.round(likely.bytes),
    dirtyBytesPerSecond: dirtiedIn(workingSet, 1000),
    diskBytesPerSecond: Object.fromEntries(
      disks.flatMap(({ id, guestBytesPerSecond: rate }) => (rate === undefined ? [] : [[id, rate]])),
    ),
    linkBytesPerSecond: link.bytesPerSecond,
    roundTripMs: link.roundTripMs,
  });
}
