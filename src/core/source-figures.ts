import type { Channel } from '../channel/channel.ts';
import type { MemorySource } from '../interfaces/memory.ts';
import type { AuditReport, MigrationReport } from '../interfaces/migration.ts';
import { compressionOf } from './codecs.ts';
import type { MemorySender } from './memory/memory-sender.ts';
import type { PreCopy } from './memory/pre-copy.ts';
import type { ProgressSnapshot } from './progress-meter.ts';
import type { StateSender } from './state-sender.ts';
import type { DiskSender } from './storage/disk-sender.ts';
import type { MirrorBuffer } from './storage/mirror-buffer.ts';

/** Everything at a source that counts; what has not been made yet has counted nothing. */
export interface SourceParts {
  readonly source: MemorySource;
  readonly disks: readonly DiskSender[];
  readonly memory: MemorySender | undefined;
  readonly state: StateSender | undefined;
  readonly stateBytesExpected: number;
  readonly preCopy: PreCopy | undefined;
  readonly buffer: MirrorBuffer;
  readonly channel: Channel | undefined;
  readonly audit: AuditReport;
}

/** How far it is. */
export function sourceProgress(
  parts: SourceParts,
): Omit<ProgressSnapshot, 'phase' | 'elapsedMs' | 'fraction' | 'lost' | 'prediction'> {
  const { source, disks, memory, state, preCopy, channel } = parts;
  const diskBytes = disks.reduce((sum, disk) => sum + disk.bulkBytes + disk.mirrorBytes, 0);
  const totalBytes = source.regions.reduce((sum, region) => sum + region.sizeBytes, 0);
  const doneBytes = Math.min(totalBytes, memory?.offeredBytes ?? 0);
  return {
    transferredBytes: diskBytes + (memory?.contentBytes ?? 0) + (state?.sentBytes ?? 0),
    streams: [
      ...disks.map(({ disk, doneBytes: done }) => ({
        name: disk.id,
        totalBytes: disk.sizeBytes,
        doneBytes: done,
      })),
      { name: 'memory', totalBytes, doneBytes },
    ],
    rounds: memory?.rounds ?? 0,
    throttle: preCopy?.throttle ?? 0,
    ...(channel === undefined ? {} : { link: channel.statistics.link }),
    ...compressionOf(channel),
  };
}

/** What it came to. */
export function sourceFigures(
  parts: SourceParts,
): Pick<
  MigrationReport,
  | 'bytes'
  | 'rounds'
  | 'throttleMax'
  | 'throttledMs'
  | 'guestWrites'
  | 'guestWriteHoldMs'
  | 'audit'
  | 'roundTripMs'
  | 'link'
  | 'compression'
> {
  const { disks, memory, state, preCopy, buffer, channel, audit } = parts;
  const statistics = channel?.statistics;
  const sum = (of: (disk: DiskSender) => number) => disks.reduce((total, disk) => total + of(disk), 0);
  return {
    bytes: {
      memory: memory?.contentBytes ?? 0,
      disk: sum((disk) => disk.bulkBytes),
      unchanged: sum((disk) => disk.unchangedBytes),
      mirror: sum((disk) => disk.mirrorBytes),
      state: state?.sentBytes ?? 0,
      wire: statistics?.wireBytes ?? 0,
    },
    rounds: memory?.rounds ?? 0,
    throttleMax: preCopy?.throttleMax ?? 0,
    throttledMs: preCopy?.throttledMs ?? 0,
    guestWrites: {
      mirrored: sum((disk) => disk.guestWrites.mirrored),
      setBack: sum((disk) => disk.guestWrites.setBack),
    },
    guestWriteHoldMs: buffer.longestHoldMs,
    audit,
    roundTripMs: statistics?.roundTripMs ?? 0,
    ...(statistics === undefined ? {} : { link: statistics.link }),
    ...compressionOf(channel),
  };
}
