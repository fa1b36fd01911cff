/**
 * The source's half of the audit: with the guest stunned, and everything sent that will be, it reads units of memory and of the copied disks from its
 * backend, and tells the destination a digest of each. The destination reads the same from its own, before it loads the device state.
 *
 * It goes beside what is on its way: FINAL is out (in one flight it follows), and the units are said without a question, so that nobody waits for a round
 * trip. An audit of everything comes in parts, of which only a few are ahead of the destination.
 */
import type { Channel } from '../../channel/channel.ts';
import { MigrationError } from '../../errors.ts';
import type { ByteRange, CallOptions } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { SourceVm } from '../../interfaces/hypervisor.ts';
import type { MemorySource, PageRange } from '../../interfaces/memory.ts';
import type { AuditMode, AuditReport } from '../../interfaces/migration.ts';
import { type Prng, prngFromBytes } from '../../util/prng.ts';
import { raceAbort, Signalled } from '../../util/promises.ts';
import {
  auditDigestBytesMax,
  auditDigestBytesMin,
  decodeUnits,
  encodeDigests,
  encodeUnits,
  type UnitGroup,
  unitCount,
} from '../../wire/audit-list.ts';
import { auditUnitBytesMax, auditUnitsMax } from '../../wire/limits.ts';
import { type MessageOf, memoryStream } from '../../wire/messages.ts';
import type { DiskSender } from '../storage/disk-sender.ts';
import { AuditTally } from './audit-tally.ts';
import {
  type AuditSpaces,
  type AuditUnit,
  auditSpaces,
  drawSample,
  fitsInto,
  placeUnits,
  sampleMsMax,
  sampleUnitBytes,
  unitsOf,
} from './audit-units.ts';
import type { Place, RecentWrites } from './recent-writes.ts';
import { UnitReader } from './unit-reader.ts';

/** Parts of an audit of everything that the destination has not answered: 128 MiB each. */
const partsAhead = 3;
/** Units that differed, and are sent again: 4 GiB of an audit of everything. */
const differingMax = 65_536;

export interface AuditSenderOptions {
  readonly mode: AuditMode;
  readonly vm: SourceVm;
  /** What moves; of disks alone none. */
  readonly memory: MemorySource;
  readonly disks: readonly DiskSender[];
  /** What was written last. */
  readonly recent: readonly RecentWrites[];
  readonly channel: Channel;
  readonly environment: Environment;
}

/** A part that is read next. */
interface Part {
  readonly groups: readonly UnitGroup[];
  readonly sample: Prng | undefined;
}

/** See the top of this file. One for all switchovers of a migration. */
export class AuditSender {
  readonly #options: AuditSenderOptions;
  readonly #spaces: AuditSpaces;
  readonly #reader: UnitReader;
  readonly #tally: AuditTally;
  readonly #answer = new Signalled();
  /** Of the switchover that is under way: parts that were answered, and all of them. */
  #answered = 0;
  #parts = 0;
  #answering: Promise<void> = Promise.resolve();
  #mismatches = 0;
  /** What differed the last time: it is sent again, and compared again. */
  #differed: readonly AuditUnit[] = [];

  constructor(options: AuditSenderOptions) {
    const { mode, vm, memory, disks, environment } = options;
    this.#options = options;
    this.#tally = new AuditTally(mode);
    const copied = new Map(disks.map(({ disk, stream }) => [stream.id, disk]));
    this.#spaces = auditSpaces(memory.regions, copied);
    this.#reader = new UnitReader({
      readMemory: vm.capabilities.auditMemory ? (ranges, call) => memory.read(ranges, call) : undefined,
      disks: copied,
      environment,
    });
  }

  /** In how many switchovers something differed. */
  get mismatches(): number {
    return this.#mismatches;
  }

  get report(): AuditReport {
    return this.#tally.report;
  }

  /**
   * The guest stands still, every page and every write is sent, and so is FINAL (in one flight it follows): says what is here. Resolves when all of it is
   * said; rejects when the signal is aborted.
   */
  async send({ attempt, signal }: { readonly attempt: number; readonly signal: AbortSignal }): Promise<void> {
    const { mode, environment } = this.#options;
    if (mode === 'off') return;
    const untilMs = environment.now() + sampleMsMax;
    const unitBytes = mode === 'full' ? () => auditUnitBytesMax : sampleUnitBytes;
    const of = this.#spaces.all.reduce((sum, space) => sum + unitsOf(space, unitBytes(space)), 0);
    this.#tally.begin(of);
    this.#answered = 0;
    this.#parts = mode === 'full' ? this.#fullParts : 1;
    this.#answering = this.#takeAnswers(attempt, signal);
    this.#answering.catch(() => {});
    let part = 0;
    for (const { groups, sample } of mode === 'full' ? this.#everything() : [this.#sample()]) {
      while (part - this.#answered >= partsAhead) await raceAbort(this.#answer.wait(), signal);
      const timing = sample === undefined ? {} : { untilMs, shuffle: sample };
      const units = placeUnits(groups, this.#spaces);
      const digests = await this.#reader.digests(units, { ...timing, signal });
      const read = withDigests(groups, digests);
      this.#options.channel.send({
        type: 'audit',
        attempt,
        part: ++part,
        last: part === this.#parts,
        of,
        units: encodeUnits(read),
        digests: encodeDigests(
          digests.filter((digest) => digest !== undefined),
          sample === undefined ? auditDigestBytesMax : auditDigestBytesMin,
        ),
      });
    }
  }

  /** Resolves once the destination has said what it compared: it has, before it says anything of the whole. */
  async answered(): Promise<void> {
    await this.#answering;
  }

  /**
   * What differed the last time is offered once more, by the feed of memory and by the disks; after a sample all of the region or disk that it lies in: more may differ than was hit. Rejects
   * as {@link MemorySource.offer} does.
   */
  async sendAgain({ signal }: CallOptions = {}): Promise<void> {
    const pages: PageRange[] = [];
    for (const { stream, space, offset, length } of this.#suspect()) {
      if (stream === memoryStream) pages.push({ region: space, offset, length });
      else this.#options.disks.find((disk) => disk.stream.id === stream)?.sendAgain({ offset, length });
    }
    if (pages.length > 0) await this.#options.memory.offer(pages, { signal });
  }

  #suspect(): Iterable<Place & ByteRange> {
    if (this.#options.mode === 'full') return this.#differed;
    const spaces = new Set(this.#differed.map((unit) => this.#spaces.find(unit)));
    return [...spaces].flatMap((space) =>
      space === undefined ? [] : [{ ...space, offset: 0, length: space.sizeBytes }],
    );
  }

  #sample(): Part {
    const { recent, environment } = this.#options;
    const prng = prngFromBytes(environment.randomBytes(16));
    return { groups: drawSample(this.#spaces, recent, this.#differed, prng), sample: prng };
  }

  get #fullParts(): number {
    const parts = ({ length }: { readonly length: number }) => Math.ceil(length / auditUnitsMax);
    const all = this.#spaces.all.map((space) => parts({ length: unitsOf(space, auditUnitBytesMax) }));
    return Math.max(
      1,
      all.reduce((sum, count) => sum + count, 0),
    );
  }

  *#everything(): Iterable<Part> {
    let any = false;
    for (const space of this.#spaces.all) {
      const count = unitsOf(space, auditUnitBytesMax);
      for (let first = 0; first < count; first += auditUnitsMax) {
        const length = Math.min(auditUnitsMax, count - first);
        const units = Array.from({ length }, (_, index) => first + index);
        const { stream, space: number } = space;
        any = true;
        yield {
          groups: [{ drawn: true, stream, space: number, unitBytes: auditUnitBytesMax, units }],
          sample: undefined,
        };
      }
    }
    if (!any) yield { groups: [], sample: undefined };
  }

  async #takeAnswers(attempt: number, signal: AbortSignal): Promise<void> {
    const differed: AuditUnit[] = [];
    try {
      while (this.#answered < this.#parts) {
        const answer = await this.#options.channel.mailbox.takeUntil(signal, 'audited');
        // That of an earlier switchover may come late.
        if (answer.attempt === attempt) differed.push(...this.#take(answer));
        if (differed.length > differingMax) differed.length = differingMax;
      }
    } finally {
      this.#differed = differed;
      if (differed.length > 0) this.#mismatches++;
    }
  }

  #take(answer: MessageOf<'audited'>): readonly AuditUnit[] {
    const groups = decodeUnits(answer.differing);
    if (answer.part !== this.#answered + 1 || !groups.every((group) => fitsInto(group, this.#spaces))) {
      throw new MigrationError('protocol', 'an answer to an audit makes no sense');
    }
    this.#answered++;
    this.#tally.add({ ...answer, differing: unitCount(groups) });
    this.#answer.notify();
    return placeUnits(groups, this.#spaces);
  }
}

/** Those of the units that have a digest. */
function withDigests(
  groups: readonly UnitGroup[],
  digests: readonly (Uint8Array | undefined)[],
): readonly UnitGroup[] {
  let at = 0;
  return groups.map((group) => {
    const units = group.units.filter(() => digests[at++] !== undefined);
    return units.length === group.units.length ? group : { ...group, units };
  });
}
