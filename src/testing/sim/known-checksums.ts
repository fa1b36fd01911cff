/**
 * The CRC-32C of ring content without looking at all of it. Between its stamps a ring's slot is constant, and
 * a CRC is linear: over the filler of a unit it goes by four table look-ups. So a huge VM is migrated at
 * memory speed, while the engine computes, carries and compares the very same checksums. Only content by
 * reference is known; what a network damaged, it has copied, and that is summed up as ever.
 */
import { crc32c, setChecksumShortcut } from '../../util/checksum.ts';
import { filler, stampBytes, unitBytesOfRing } from './content.ts';

/** Less than this is summed up as fast as it is looked up. */
const worthBytes = 8192;

const polynomial = 0x82f6_3b78;

/** One byte's step: the remainder of each byte. */
const byteTable = new Uint32Array(256);
for (let byte = 0; byte < 256; byte++) {
  let crc = byte;
  for (let bit = 0; bit < 8; bit++) crc = (crc & 1) === 1 ? (crc >>> 1) ^ polynomial : crc >>> 1;
  byteTable[byte] = crc;
}

/** What {@link pass} needs to go over one unit. */
interface UnitTables {
  /**
   * Four tables of 256: the register's bytes, carried over the stamp and the filler; the first two words are
   * those of the stamp.
   */
  readonly overFiller: Uint32Array;
  /** The register after the filler, if it was 0 before. */
  readonly fillerCrc: number;
}

const tablesByUnit = new Map<number, UnitTables>();
/** Slicing by eight: the remainder of each byte of a stamp at its place. */
const stampTables = makeStampTables();

function makeStampTables(): Uint32Array {
  const tables = new Uint32Array(stampBytes * 256);
  for (let byte = 0; byte < 256; byte++) {
    let crc = byteTable[byte] ?? 0;
    for (let place = stampBytes - 1; place >= 0; place--) {
      tables[place * 256 + byte] = crc;
      crc = (crc >>> 8) ^ (byteTable[crc & 0xff] ?? 0);
    }
  }
  return tables;
}

/** The register as it is after `bytes` zeros. */
function overZeros(register: number, zeros: Uint8Array): number {
  return ~crc32c(zeros, ~register >>> 0) >>> 0;
}

function tablesOf(unitBytes: number): UnitTables {
  let tables = tablesByUnit.get(unitBytes);
  if (tables === undefined) {
    const zeros = new Uint8Array(unitBytes - stampBytes);
    const overFiller = new Uint32Array(4 * 256);
    for (let place = 0; place < 4; place++) {
      for (let bit = 0; bit < 8; bit++) {
        const over = overZeros((1 << (8 * place + bit)) >>> 0, zeros);
        const first = place * 256 + (1 << bit);
        for (let byte = 0; byte < 1 << bit; byte++) {
          overFiller[first + byte] = (overFiller[first - (1 << bit) + byte] ?? 0) ^ over;
        }
      }
    }
    const fillerCrc = ~crc32c(filler(unitBytes).subarray(stampBytes, unitBytes), 0xffff_ffff) >>> 0;
    tables = { overFiller, fillerCrc };
    tablesByUnit.set(unitBytes, tables);
  }
  return tables;
}

/** The CRC-32C of bytes of a ring's slot, going on from `previous`; undefined for any other bytes. */
export function knownChecksum(data: Uint8Array, previous: number): number | undefined {
  if (data.byteLength < worthBytes) return undefined;
  const unitBytes = unitBytesOfRing(data.buffer);
  if (unitBytes === undefined) return undefined;
  // Slots begin with a unit.
  const first = Math.ceil(data.byteOffset / unitBytes) * unitBytes - data.byteOffset;
  const units = Math.floor((data.byteLength - first) / unitBytes);
  if (units < 1) return undefined;
  const end = first + units * unitBytes;
  const known = first === 0 ? previous : crc32c(data.subarray(0, first), previous);
  const passed = ~pass(data, first, units, unitBytes, ~known >>> 0) >>> 0;
  return end === data.byteLength ? passed : crc32c(data.subarray(end), passed);
}

/** The register after some whole units. */
function pass(data: Uint8Array, at: number, units: number, unitBytes: number, register: number): number {
  const { overFiller, fillerCrc } = tablesOf(unitBytes);
  const t = stampTables;
  const view = new DataView(data.buffer, data.byteOffset, data.byteLength);
  let crc = register;
  for (let unit = 0, position = at; unit < units; unit++, position += unitBytes) {
    const a = view.getUint32(position, true) ^ crc;
    const b = view.getUint32(position + 4, true);
    crc =
      (t[a & 0xff] ?? 0) ^
      (t[256 + ((a >>> 8) & 0xff)] ?? 0) ^
      (t[512 + ((a >>> 16) & 0xff)] ?? 0) ^
      (t[768 + (a >>> 24)] ?? 0) ^
      (t[1024 + (b & 0xff)] ?? 0) ^
      (t[1280 + ((b >>> 8) & 0xff)] ?? 0) ^
      (t[1536 + ((b >>> 16) & 0xff)] ?? 0) ^
      (t[1792 + (b >>> 24)] ?? 0);
    crc =
      fillerCrc ^
      (overFiller[crc & 0xff] ?? 0) ^
      (overFiller[256 + ((crc >>> 8) & 0xff)] ?? 0) ^
      (overFiller[512 + ((crc >>> 16) & 0xff)] ?? 0) ^
      (overFiller[768 + (crc >>> 24)] ?? 0);
  }
  return crc >>> 0;
}

/**
 * From now on, all of this process's checksums of ring content are `knownChecksum`. Returns how to end
 * that.
 */
export function useKnownChecksums(): () => void {
  setChecksumShortcut(knownChecksum);
  return () => setChecksumShortcut(undefined);
}
