/**
 * Lists of units in messages of the audit: stretches of a memory region or a disk, all of one size but for the last of a space, which ends
 * with it. In base64, bytes as follows, for each group of units of one space:
 *
 * ```
 *  kind      1 byte: 0 chosen, 1 drawn from all there are
 *  stream    a number: seven bits a byte, low ones first, the eighth set in all but the last
 *  space     a number: index of the memory region; 0 for disks
 *  unit      1 byte: the unit's size is 2 to that power
 *  count     a number, 1 or more
 *  units     so many numbers: the index of the first, then of each by how much it is more than the one before
 * ```
 *
 * So some hundred units out of millions take 2 or 3 bytes each: an audit is to fit into what a connection that was idle sends at once.
 */
import { MigrationError } from '../errors.ts';
import { decodeBase64, encodeBase64 } from '../util/base64.ts';
import { joinChunks } from '../util/chunks.ts';
import { auditUnitBytesMax, auditUnitBytesMin, auditUnitsMax } from './limits.ts';

/** Units of one space. */
export interface UnitGroup {
  /** Drawn from all there are; else chosen: because they were written lately, or had differed. */
  readonly drawn: boolean;
  readonly stream: number;
  readonly space: number;
  /** A power of two, 4096 to 65,536. */
  readonly unitBytes: number;
  /** Their indices, ascending. */
  readonly units: readonly number[];
}

/** So many bytes a digest has at the least, and at most. */
export const auditDigestBytesMin = 4;
export const auditDigestBytesMax = 8;

/** How many units all groups have. */
export function unitCount(groups: readonly UnitGroup[]): number {
  return groups.reduce((sum, { units }) => sum + units.length, 0);
}

/** The list as it travels. */
export function encodeUnits(groups: readonly UnitGroup[]): string {
  const bytes: number[] = [];
  for (const { drawn, stream, space, unitBytes, units } of groups) {
    if (units.length === 0) continue;
    bytes.push(drawn ? 1 : 0);
    pushNumber(bytes, stream);
    pushNumber(bytes, space);
    bytes.push(31 - Math.clz32(unitBytes));
    pushNumber(bytes, units.length);
    let before = 0;
    for (const unit of units) {
      pushNumber(bytes, unit - before);
      before = unit;
    }
  }
  return encodeBase64(Uint8Array.from(bytes));
}

/** Throws `protocol` for anything that {@link encodeUnits} does not make, and for more than 2048 units. */
export function decodeUnits(text: string): readonly UnitGroup[] {
  const reader = new Reader(bytesOf(text));
  const groups: UnitGroup[] = [];
  let left = auditUnitsMax;
  while (!reader.atEnd) {
    const kind = reader.byte();
    if (kind > 1) throw bad('of no known kind');
    const [stream, space] = [reader.number(), reader.number()];
    const unitBytes = 2 ** reader.byte();
    if (!(unitBytes >= auditUnitBytesMin && unitBytes <= auditUnitBytesMax))
      throw bad('of units too large or small');
    const count = reader.number();
    if (count < 1 || count > left) throw bad('empty, or too long');
    left -= count;
    const units: number[] = [];
    for (let index = 0, unit = 0; index < count; index++) {
      const step = reader.number();
      if (index > 0 && step === 0) throw bad('with a unit twice');
      unit += step;
      if (!Number.isSafeInteger(unit * unitBytes)) throw bad('with a unit that is nowhere');
      units.push(unit);
    }
    groups.push({ drawn: kind === 1, stream, space, unitBytes, units });
  }
  return groups;
}

/** Digests, cut to so many bytes each, one behind the other. */
export function encodeDigests(digests: readonly Uint8Array[], digestBytes: number): string {
  return encodeBase64(joinChunks(digests.map((digest) => digest.subarray(0, digestBytes))));
}

/** As many digests as there are units. Throws `protocol` unless each has the same length, 4 to 8 bytes. */
export function decodeDigests(text: string, count: number): readonly Uint8Array[] {
  const bytes = bytesOf(text);
  if (count === 0 && bytes.byteLength === 0) return [];
  const digestBytes = bytes.byteLength / count;
  if (
    !Number.isInteger(digestBytes) ||
    digestBytes < auditDigestBytesMin ||
    digestBytes > auditDigestBytesMax
  ) {
    throw new MigrationError('protocol', 'an audit has digests of no known length');
  }
  return Array.from({ length: count }, (_, index) =>
    bytes.subarray(index * digestBytes, (index + 1) * digestBytes),
  );
}

function pushNumber(bytes: number[], value: number): void {
  let rest = value;
  while (rest > 127) {
    bytes.push(128 + (rest % 128));
    rest = Math.floor(rest / 128);
  }
  bytes.push(rest);
}

function bad(what: string): MigrationError {
  return new MigrationError('protocol', `a list of units in an audit is ${what}`);
}

function bytesOf(text: string): Uint8Array {
  const bytes = decodeBase64(text);
  if (bytes === undefined) throw new MigrationError('protocol', 'an audit is not in base64');
  return bytes;
}

class Reader {
  readonly #bytes: Uint8Array;
  #at = 0;

  constructor(bytes: Uint8Array) {
    this.#bytes = bytes;
  }

  get atEnd(): boolean {
    return this.#at === this.#bytes.byteLength;
  }

  byte(): number {
    const byte = this.#bytes[this.#at];
    if (byte === undefined) throw bad('cut short');
    this.#at++;
    return byte;
  }

  number(): number {
    let value = 0;
    for (let scale = 1; ; scale *= 128) {
      const byte = this.byte();
      value += (byte % 128) * scale;
      if (!Number.isSafeInteger(value)) throw bad('with a number too large');
      if (byte < 128) return value;
      if (scale > 2 ** 49) throw bad('with a number too long');
    }
  }
}
