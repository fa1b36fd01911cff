import { type ErrorCode, MigrationError } from '../../errors.ts';
import type { Extent } from '../../interfaces/block-device.ts';
import type { ByteRange, Chunks, Content } from '../../interfaces/content.ts';
import { chunksLength, isZero, joinChunks, sliceChunks } from '../../util/chunks.ts';
import {
  badGeneration,
  type ContentSource,
  contentBytesMax,
  FreshContent,
  filler,
  reusedTooEarly,
  saltOf,
  stampBytes,
} from './content.ts';
import { Generations } from './generations.ts';

/** How much of arriving content is looked at: all of it, or each unit's stamp and last word. */
export type ContentCheck = 'full' | 'stamp';

/** Why a unit is bad: its bytes are damaged, they belong elsewhere, or only a part of them came. */
export type BadReason = 'damaged' | 'misplaced' | 'partial';

/** A unit that does not hold what a guest wrote there. */
export interface BadUnit {
  /** Its index. */
  readonly unit: number;
  /** What is wrong with it. */
  readonly reason: BadReason;
}

export interface UnitSpaceOptions {
  /** What names it: the same at both ends, and no other space's. */
  readonly name: string;
  readonly sizeBytes: number;
  readonly unitBytes: number;
  /** Of all units at first. Default 0: zeros. */
  readonly generation?: number;
  /** Of content that cannot be put there. */
  readonly errorCode: ErrorCode;
  /** Default `full`. */
  readonly check?: ContentCheck;
}

/** Units of one generation, as content said. */
interface Run {
  readonly from: number;
  readonly to: number;
  readonly generation: number;
  readonly bad: BadReason | undefined;
}

/** Content that was looked at, to be put into place. */
export type DecodedContent = readonly Run[];

/** What zeros are read from: a view of it is never written to. */
const zeros = new Uint8Array(contentBytesMax);

/** Bad units that are told one by one; all of them have {@link badGeneration}. */
const badListedMax = 1000;

/**
 * A memory region's or a disk's content: the generation of each unit, and how that becomes bytes and back.
 */
export class UnitSpace {
  /** What it is called. */
  readonly name: string;
  /** Its size. */
  readonly sizeBytes: number;
  /** The size of a unit: of a page, or a block. */
  readonly unitBytes: number;
  /** What each unit holds. */
  readonly generations: Generations;
  readonly #salt: number;
  readonly #filler: Uint8Array;
  readonly #full: boolean;
  readonly #errorCode: ErrorCode;
  readonly #bad = new Map<number, BadReason>();

  /** Throws `invalid-argument` if the last unit is too short for a stamp. */
  constructor(options: UnitSpaceOptions) {
    const { name, sizeBytes, unitBytes, generation = 0, check = 'full' } = options;
    const tail = sizeBytes % unitBytes;
    if (tail > 0 && tail < stampBytes) {
      throw new MigrationError('invalid-argument', `${name}: a last unit of ${tail} bytes holds no stamp`);
    }
    this.name = name;
    this.sizeBytes = sizeBytes;
    this.unitBytes = unitBytes;
    this.generations = new Generations(Math.ceil(sizeBytes / unitBytes), generation);
    this.#salt = saltOf(name);
    this.#filler = filler(unitBytes);
    this.#errorCode = options.errorCode;
    this.#full = check === 'full';
  }

  /** The first 1000 units that are bad now. */
  get badUnits(): readonly BadUnit[] {
    return [...this.#bad].map(([unit, reason]) => ({ unit, reason }));
  }

  /** Whether one of the range's units does not hold what a guest wrote there. */
  hasBad(offset: number, length: number): boolean {
    if (this.#bad.size === 0) return false;
    const [from, to] = this.unitsOf(offset, length);
    return [...this.#bad.keys()].some((unit) => unit >= from && unit < to);
  }

  /** The units that a range touches: from and, exclusive, to. */
  unitsOf(offset: number, length: number): readonly [number, number] {
    return [Math.floor(offset / this.unitBytes), Math.ceil((offset + length) / this.unitBytes)];
  }

  /** Gives every unit that the range touches a generation. */
  set(offset: number, length: number, generation: number): void {
    const [from, to] = this.unitsOf(offset, length);
    this.generations.setRange(from, to, generation);
    this.#good(from, to);
  }

  /** A range's content as it is now. */
  read(offset: number, length: number, source: ContentSource): Chunks {
    const [from, to] = this.unitsOf(offset, length);
    const start = from * this.unitBytes;
    const chunks = this.#readUnits(from, to, source);
    if (start === offset && chunksLength(chunks) === length) return chunks;
    return sliceChunks(chunks, offset - start, length);
  }

  /** Content of a range as if it had just been written with one generation. New bytes, nobody else's. */
  written(offset: number, length: number, generation: number): Content {
    if (generation === 0) return 'zero';
    const [from, to] = this.unitsOf(offset, length);
    const source = new FreshContent(this.unitBytes);
    const chunks: Uint8Array[] = [];
    this.#eachPiece(from, to, (first, end, bytes) => {
      const piece = source.take(bytes);
      this.#stamp(piece, first, end, () => generation);
      chunks.push(piece);
    });
    return sliceChunks(chunks, offset - from * this.unitBytes, length);
  }

  /** Stamps units `from` to `to` - 1, none of them zeros, into `bytes`, which is filler of their length. */
  stampInto(bytes: Uint8Array, from: number, to: number): void {
    this.#stamp(bytes, from, to, (unit) => this.generations.get(unit));
  }

  /** The stretches of a range that are zeros, and those that are not. */
  extents(offset: number, length: number): readonly Extent[] {
    const extents: Extent[] = [];
    const end = offset + length;
    const [, to] = this.unitsOf(offset, length);
    for (let at = offset; at < end; ) {
      const unit = Math.floor(at / this.unitBytes);
      const stretchEnd = Math.min(end, this.generations.kindEnd(unit, to) * this.unitBytes);
      extents.push({ offset: at, length: stretchEnd - at, zero: this.generations.get(unit) === 0 });
      at = stretchEnd;
    }
    return extents;
  }

  /**
   * Looks at content that came for a range, and says what it is. Throws `errorCode`
   * unless it has its length.
   */
  decode({ offset, length }: ByteRange, content: Content): DecodedContent {
    const [from, to] = this.unitsOf(offset, length);
    const runs: Run[] = [];
    const first = from * this.unitBytes === offset ? from : from + 1;
    const whole = offset + length === this.sizeBytes || (offset + length) % this.unitBytes === 0;
    const end = whole ? to : to - 1;
    if (first !== from) runs.push(badRun(from, 'partial'));
    if (content === 'zero') {
      if (end > first) runs.push({ from: first, to: end, generation: 0, bad: undefined });
    } else {
      this.#requireLength(content, length);
      if (end > first) this.#decodeUnits(sliceTo(content, first * this.unitBytes - offset), first, end, runs);
    }
    if (end !== to && end >= first) runs.push(badRun(end, 'partial'));
    return runs;
  }

  /** Puts into place what was looked at; only whole units that end at `endBytes` or before it, if that is given. */
  put(decoded: DecodedContent, endBytes = Number.POSITIVE_INFINITY): void {
    const endUnit = Math.floor(endBytes / this.unitBytes);
    for (const { from, to: end, generation, bad } of decoded) {
      const to = Math.min(end, endUnit);
      if (to <= from) continue;
      this.generations.setRange(from, to, generation);
      if (bad === undefined) this.#good(from, to);
      else if (this.#bad.size < badListedMax) this.#bad.set(from, bad);
    }
  }

  #good(from: number, to: number): void {
    if (this.#bad.size === 0) return;
    for (const unit of [...this.#bad.keys()]) if (unit >= from && unit < to) this.#bad.delete(unit);
  }

  #requireLength(content: Chunks, length: number): void {
    const bytes = chunksLength(content);
    if (bytes === length) return;
    const cause = bytes < length ? `: ${reusedTooEarly}` : '';
    throw new MigrationError(
      this.#errorCode,
      `${this.name}: ${bytes} bytes for a range of ${length}${cause}`,
    );
  }

  #readUnits(from: number, to: number, source: ContentSource): Chunks {
    const chunks: Uint8Array[] = [];
    for (let at = from; at < to; ) {
      const end = this.generations.kindEnd(at, to);
      const zero = this.generations.get(at) === 0;
      this.#eachPiece(at, end, (first, last, bytes) => {
        const piece = zero ? zeros.subarray(0, bytes) : source.take(bytes);
        if (!zero) this.stampInto(piece, first, last);
        chunks.push(piece);
      });
      at = end;
    }
    return chunks;
  }

  /** Cuts a range of units into pieces of 1 MiB at most. */
  #eachPiece(from: number, to: number, visit: (from: number, to: number, bytes: number) => void): void {
    const step = Math.floor(contentBytesMax / this.unitBytes);
    for (let at = from; at < to; at += step) {
      const end = Math.min(to, at + step);
      visit(at, end, Math.min(this.sizeBytes, end * this.unitBytes) - at * this.unitBytes);
    }
  }

  #stamp(bytes: Uint8Array, from: number, to: number, generation: (unit: number) => number): void {
    const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.byteLength);
    for (let unit = from, at = 0; unit < to; unit++, at += this.unitBytes) {
      view.setUint32(at, generation(unit), true);
      view.setUint32(at + 4, (unit ^ this.#salt) >>> 0, true);
    }
  }

  /** The units from `from` to `to` - 1 out of content that begins with the first of them. */
  #decodeUnits(content: Chunks, from: number, to: number, runs: Run[]): void {
    let unit = from;
    let open = from;
    let current = 0;
    const seen = (generation: number, bad: BadReason | undefined) => {
      if (bad !== undefined || generation !== current) {
        if (unit > open) runs.push({ from: open, to: unit, generation: current, bad: undefined });
        open = unit;
        current = generation;
      }
      if (bad !== undefined) {
        runs.push(badRun(unit, bad));
        open = unit + 1;
      }
      unit++;
    };
    let straddling: Uint8Array[] = [];
    let missing = 0;
    for (const chunk of content) {
      let at = 0;
      if (missing > 0) {
        const part = chunk.subarray(0, missing);
        straddling.push(part);
        missing -= part.byteLength;
        at = part.byteLength;
        if (missing === 0) this.#look(joinChunks(straddling), unit, seen);
      }
      if (unit >= to) break;
      at = this.#lookAt(chunk, at, unit, to, seen);
      const unitLength = this.#lengthOf(unit);
      if (unit < to && missing === 0 && at < chunk.byteLength) {
        straddling = [chunk.subarray(at)];
        missing = unitLength - (chunk.byteLength - at);
      }
    }
    if (unit > open) runs.push({ from: open, to: unit, generation: current, bad: undefined });
  }

  #lengthOf(unit: number): number {
    return Math.min(this.unitBytes, this.sizeBytes - unit * this.unitBytes);
  }

  #look(bytes: Uint8Array, unit: number, seen: Seen): void {
    this.#lookAt(bytes, 0, unit, unit + 1, seen);
  }

  /** Every whole unit in a chunk from `at` on; returns where the rest begins. */
  #lookAt(chunk: Uint8Array, at: number, from: number, to: number, seen: Seen): number {
    const view = new DataView(chunk.buffer, chunk.byteOffset, chunk.byteLength);
    let position = at;
    for (let unit = from; unit < to; unit++) {
      const length = this.#lengthOf(unit);
      if (position + length > chunk.byteLength) break;
      const generation = view.getUint32(position, true);
      const index = view.getUint32(position + 4, true);
      if (generation === 0 && index === 0) {
        seen(...this.#zeroUnit(chunk, position, length));
      } else if (!this.#fillerFits(chunk, view, position, length)) {
        seen(badGeneration, 'damaged');
      } else if (index !== (unit ^ this.#salt) >>> 0) {
        seen(badGeneration, 'misplaced');
      } else {
        seen(generation, undefined);
      }
      position += length;
    }
    return position;
  }

  #zeroUnit(chunk: Uint8Array, at: number, length: number): [number, BadReason | undefined] {
    return isZero(chunk.subarray(at, at + length)) ? [0, undefined] : [badGeneration, 'damaged'];
  }

  #fillerFits(chunk: Uint8Array, view: DataView, at: number, length: number): boolean {
    if (this.#full || length < this.unitBytes) {
      const expected = this.#filler.subarray(stampBytes, length);
      return Buffer.compare(chunk.subarray(at + stampBytes, at + length), expected) === 0;
    }
    const last = (Math.imul(length, 0x9e37_79b1) | 0x0101_0101) >>> 0;
    return view.getUint32(at + length - 4, true) === last;
  }
}

type Seen = (generation: number, bad: BadReason | undefined) => void;

function badRun(unit: number, bad: BadReason): Run {
  return { from: unit, to: unit + 1, generation: badGeneration, bad };
}

function sliceTo(content: Chunks, offset: number): Chunks {
  return offset === 0 ? content : sliceChunks(content, offset, chunksLength(content) - offset);
}
