import type { Channel } from '../../channel/channel.ts';
import { MigrationError } from '../../errors.ts';
import type { ReadableDisk } from '../../interfaces/block-device.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { DestinationVm } from '../../interfaces/hypervisor.ts';
import type { AuditMode, AuditReport } from '../../interfaces/migration.ts';
import { equalBytes } from '../../util/digest.ts';
import { prngFromBytes } from '../../util/prng.ts';
import { decodeDigests, decodeUnits, encodeUnits, type UnitGroup, unitCount } from '../../wire/audit-list.ts';
import { type MessageOf, memoryStream } from '../../wire/messages.ts';
import { AuditTally } from './audit-tally.ts';
import { type AuditSpaces, auditSpaces, fitsInto, placeUnits, sampleMsMax } from './audit-units.ts';
import { UnitReader } from './unit-reader.ts';

export interface AuditCheckerOptions {
  readonly mode: AuditMode;
  readonly vm: DestinationVm;
  /** The disks that are copied, by the numbers of their streams. */
  readonly disks: ReadonlyMap<number, ReadableDisk>;
  readonly channel: Channel;
  readonly environment: Environment;
}

/** Differences that a message for people names. */
const namedMax = 8;

/** The destination's half of the audit: reads the units that the source names from its own backend, and compares. */
export class AuditChecker {
  readonly #options: AuditCheckerOptions;
  readonly #spaces: AuditSpaces;
  readonly #reader: UnitReader;
  readonly #tally: AuditTally;

  constructor(options: AuditCheckerOptions) {
    const { mode, vm, disks, environment } = options;
    this.#options = options;
    this.#tally = new AuditTally(mode);
    this.#spaces = auditSpaces(vm.memory.regions, disks);
    this.#reader = new UnitReader({
      readMemory: vm.capabilities.auditMemory ? (ranges, call) => vm.memory.read(ranges, call) : undefined,
      disks,
      environment,
    });
  }

  get report(): AuditReport {
    return this.#tally.report;
  }

  /**
   * Everything is applied, and nothing is loaded: compares what the source says, part by part, and answers each. Rejects with `audit-mismatch` if
   * anything differs, once all was looked at.
   */
  async check({
    attempt,
    signal,
  }: {
    readonly attempt: number;
    readonly signal: AbortSignal;
  }): Promise<void> {
    const { mode, channel } = this.#options;
    if (mode === 'off') return;
    const named: string[] = [];
    let [part, differing] = [0, 0];
    for (let last = false; !last; ) {
      const message = await channel.mailbox.takeUntil(signal, 'audit');
      // What an earlier switchover left unread.
      if (message.attempt !== attempt) continue;
      if (message.part !== ++part) throw new MigrationError('protocol', 'a part of an audit is missing');
      if (part === 1) this.#tally.begin(message.of);
      const found = await this.#compare(message, signal);
      differing += unitCount(found);
      for (const group of found) if (named.length < namedMax) named.push(this.#nameOf(group));
      ({ last } = message);
    }
    if (differing === 0) return;
    const units = differing === 1 ? 'one unit differs' : `${differing} units differ`;
    throw new MigrationError(
      'audit-mismatch',
      `what is here is not what the source has: ${units} (${named.join('; ')})`,
    );
  }

  /** Answers the part; what differs, by group. */
  async #compare(message: MessageOf<'audit'>, signal: AbortSignal): Promise<readonly UnitGroup[]> {
    const { mode, environment, channel } = this.#options;
    const groups = decodeUnits(message.units);
    const expected = decodeDigests(message.digests, unitCount(groups));
    if (!groups.every((group) => fitsInto(group, this.#spaces))) {
      throw new MigrationError('protocol', 'an audit is of what is not there');
    }
    const chance = () => prngFromBytes(environment.randomBytes(16));
    const order = mode === 'full' ? {} : { untilMs: environment.now() + sampleMsMax, shuffle: chance() };
    const units = placeUnits(groups, this.#spaces);
    const digests = await this.#reader.digests(units, { ...order, signal });
    const counts = { units: 0, bytes: 0, drawn: 0 };
    let at = 0;
    const found = groups.flatMap((group): UnitGroup[] => {
      const differing = group.units.filter(() => {
        const [here, there, unit] = [digests[at], expected[at], units[at]];
        at++;
        if (here === undefined || there === undefined || unit === undefined) return false;
        counts.units++;
        counts.bytes += unit.length;
        if (group.drawn) counts.drawn++;
        return !equalBytes(here.subarray(0, there.byteLength), there);
      });
      return differing.length === 0 ? [] : [{ ...group, units: differing }];
    });
    this.#tally.add({ ...counts, differing: unitCount(found) });
    const { attempt, part } = message;
    channel.send({ type: 'audited', attempt, part, ...counts, differing: encodeUnits(found) });
    return found;
  }

  #nameOf({ stream, space, unitBytes, units }: UnitGroup): string {
    const { vm, disks } = this.#options;
    const name =
      stream === memoryStream
        ? `memory ${vm.memory.regions[space]?.name ?? ''}`
        : `disk ${disks.get(stream)?.id ?? ''}`;
    const more = units.length > 1 ? `, and ${units.length - 1} more` : '';
    return `${name}, ${unitBytes} bytes at ${(units[0] ?? 0) * unitBytes}${more}`;
  }
}
