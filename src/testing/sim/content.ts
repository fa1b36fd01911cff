/**
 * The bytes of simulated content. A unit (a memory page, a disk block) of generation 0 is zeros; any other
 * carries its generation:
 *
 * ```
 *  0  4  generation
 *  4  4  index of the unit, exclusive-or'd with its space's salt
 *  8     filler: for each place within a unit always the same, no byte of it 0
 * ```
 *
 * So content is real bytes, to be checksummed, split and damaged, and costs two numbers a unit to make and to
 * look at.
 */
import { MigrationError } from '../../errors.ts';

/** Bytes of the stamp; no unit is shorter. */
export const stampBytes = 8;

/** The largest unit, and what one batch of content holds at most. */
export const contentBytesMax = 1 << 20;

/** Generations that no guest write has: a unit that arrived damaged or at the wrong place ... */
export const badGeneration = 0xffff_ffff;
/** ... and what a destination's disk held before anything was written to it. */
export const foreignGeneration = 0xffff_fffe;

/** What a reader of a ring's content says that finds none. */
export const reusedTooEarly = 'content was used again too early; ringBytes is too small';

const fillers = new Map<number, Uint8Array>();

/** 1 MiB of units as they are before they are stamped. Not to be changed. */
export function filler(unitBytes: number): Uint8Array {
  let bytes = fillers.get(unitBytes);
  if (bytes === undefined) {
    bytes = new Uint8Array(contentBytesMax);
    const view = new DataView(bytes.buffer);
    for (let at = 0; at < unitBytes; at += 4) {
      view.setUint32(at, (Math.imul(at + 4, 0x9e37_79b1) | 0x0101_0101) >>> 0, true);
    }
    for (let at = unitBytes; at < contentBytesMax; at += unitBytes) bytes.copyWithin(at, 0, unitBytes);
    fillers.set(unitBytes, bytes);
  }
  return bytes;
}

/**
 * A number for a space (a region, a disk) of a VM: content that lands in another one is told by it. FNV-1a.
 */
export function saltOf(name: string): number {
  let hash = 0x811c_9dc5;
  for (let index = 0; index < name.length; index++) {
    hash = Math.imul(hash ^ name.charCodeAt(index), 0x0100_0193);
  }
  return hash >>> 0;
}

/** The unit size of every ring's slots. */
const ringSlots = new WeakMap<ArrayBufferLike, number>();

/** The unit size of the ring that a buffer is a slot of; undefined if it is none. */
export function unitBytesOfRing(buffer: ArrayBufferLike): number | undefined {
  return ringSlots.get(buffer);
}

interface Slot {
  bytes: Uint8Array;
  /** Batches in it that the engine has not released. */
  held: number;
}

/** Bytes to put content into. */
export interface ContentSource {
  /** Filler for whole units, `bytes` long, 1 to 1 MiB together. The stamps' places hold anything. */
  take(bytes: number): Uint8Array;
  /** As {@link ContentSource.take}, for content that is known to be in use until `release` is called. */
  lend(bytes: number): { readonly bytes: Uint8Array; release(): void };
}

/** New bytes each time. Nothing is ever used again too early; the garbage collector pays for it. */
export class FreshContent implements ContentSource {
  readonly #filler: Uint8Array;

  constructor(unitBytes: number) {
    this.#filler = filler(unitBytes);
  }

  take(bytes: number): Uint8Array {
    return Uint8Array.prototype.slice.call(this.#filler, 0, bytes);
  }

  lend(bytes: number): { readonly bytes: Uint8Array; release(): void } {
    return { bytes: this.take(bytes), release: () => {} };
  }
}

/**
 * A ring of slots of 1 MiB, filled with filler once and only stamped again when they come round: a huge VM
 * costs no allocation a batch. A slot is used again when `ringBytes` more were taken, so that has to exceed
 * all that can be on its way; what is lent and not released is passed over, and the ring grows.
 *
 * A slot that comes round takes its old buffer away from whoever still holds it: a reader then finds no bytes
 * at all, and the migration fails. So a ring that is too small is noticed, and never puts newer content into
 * older frames.
 */
export class ContentRing implements ContentSource {
  readonly #unitBytes: number;
  readonly #slotsMax: number;
  readonly #slots: Slot[] = [];
  #next = 0;
  #current: Slot | undefined;
  #used = contentBytesMax;

  /** `ringBytes`: 1 MiB or more. Throws `invalid-argument`. */
  constructor(unitBytes: number, ringBytes: number) {
    if (!(ringBytes >= contentBytesMax)) {
      throw new MigrationError('invalid-argument', `a content ring of ${ringBytes} bytes is less than 1 MiB`);
    }
    this.#unitBytes = unitBytes;
    this.#slotsMax = Math.floor(ringBytes / contentBytesMax);
  }

  /** Bytes that the ring has allocated. */
  get allocatedBytes(): number {
    return this.#slots.length * contentBytesMax;
  }

  take(bytes: number): Uint8Array {
    const whole = Math.ceil(bytes / this.#unitBytes) * this.#unitBytes;
    if (this.#current === undefined || this.#used + whole > contentBytesMax) {
      this.#current = this.#nextSlot();
      this.#used = 0;
    }
    const at = this.#used;
    this.#used += whole;
    return this.#current.bytes.subarray(at, at + bytes);
  }

  lend(bytes: number): { readonly bytes: Uint8Array; release(): void } {
    const taken = this.take(bytes);
    const slot = this.#current;
    if (slot !== undefined) slot.held++;
    let held = true;
    const release = () => {
      if (held && slot !== undefined) slot.held--;
      held = false;
    };
    return { bytes: taken, release };
  }

  #nextSlot(): Slot {
    if (this.#slots.length >= this.#slotsMax) {
      const slot = this.#slots[this.#next];
      if (slot !== undefined && slot.held === 0) {
        this.#next = (this.#next + 1) % this.#slots.length;
        slot.bytes = takenAway(slot.bytes);
        ringSlots.set(slot.bytes.buffer, this.#unitBytes);
        return slot;
      }
    }
    const slot = { bytes: filler(this.#unitBytes).slice(), held: 0 };
    ringSlots.set(slot.bytes.buffer, this.#unitBytes);
    // Before the oldest one, which has to wait for a whole turn more.
    this.#slots.splice(this.#next, 0, slot);
    this.#next = (this.#next + 1) % Math.max(this.#slots.length, 1);
    return slot;
  }
}

/** The same memory under a new buffer; the old one, and every view of it, has no bytes any more. */
function takenAway(bytes: Uint8Array): Uint8Array {
  const { buffer } = bytes;
  return new Uint8Array(structuredClone(buffer, { transfer: [buffer as ArrayBuffer] }));
}
