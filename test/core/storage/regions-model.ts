import type { Regions, RegionsOptions, WriteVerdict } from '../../../src/core/storage/regions.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';

/** What the tests need of {@link Regions}. */
export type RegionRules<W> = Pick<
  Regions<W>,
  | 'nextToCopy'
  | 'copyNumbered'
  | 'copyFailed'
  | 'guestWrite'
  | 'setBack'
  | 'notCopiedBytes'
  | 'beingCopiedBytes'
  | 'heldCount'
  | 'complete'
  | 'allCopiedOnce'
>;

/** Ways to get the rules wrong, each of which loses data in some interleaving. */
export type Mistake =
  /** A write in a region being copied is mirrored at once. */
  | 'mirrored-while-being-copied'
  /** A write in a region being copied is left to the read that is out. */
  | 'left-to-the-read-that-is-out'
  /** The first read to end lets all held writes go. */
  | 'released-early'
  /** A write that overlaps a held one is mirrored at once. */
  | 'not-held-behind-held'
  /** A region in which a held write lies is taken for copying. */
  | 'taken-under-a-held-write'
  /** A region that was set back while being copied ends up copied. */
  | 'set-back-lost-while-being-copied'
  /** A region that was set back while being copied is read again before the first read ended. */
  | 'read-twice-at-once'
  /** Of several regions the mildest decides. */
  | 'mildest-region-decides'
  /** A last region that is not a whole one is left out. */
  | 'last-region-forgotten';

interface Region {
  state: 'not copied' | 'being copied' | 'copied';
  /** How many are out for it. */
  reads: number;
  once: boolean;
}

interface Held<W> {
  readonly range: ByteRange;
  readonly item: W;
}

/** The rules in their plainest form, one object a region, and with a mistake if one is given. */
export class RegionsModel<W> implements RegionRules<W> {
  readonly #sizeBytes: number;
  readonly #regionBytes: number;
  readonly #mistake: Mistake | undefined;
  readonly #regions: Region[] = [];
  readonly #spellBytes: number | undefined;
  readonly #unitRegions: number;
  #held: Held<W>[] = [];
  #cursor = 0;
  /** By unit of regions: the spells in which they were written. */
  readonly #written: Set<number>[] = [];
  #spell = 0;
  #spellTook = 0;
  /** Nothing is passed over any more. */
  #around = false;

  constructor(size: RegionsOptions, mistake?: Mistake) {
    this.#sizeBytes = size.sizeBytes;
    this.#regionBytes = size.regionBytes;
    this.#spellBytes = size.spellBytes;
    this.#unitRegions = size.unitRegions ?? 8;
    this.#mistake = mistake;
    const whole = mistake === 'last-region-forgotten' ? Math.floor : Math.ceil;
    for (let region = 0; region < whole(size.sizeBytes / size.regionBytes); region++) {
      this.#regions.push({ state: 'not copied', reads: 0, once: false });
    }
  }

  get notCopiedBytes(): number {
    return this.#bytesIn('not copied');
  }

  get beingCopiedBytes(): number {
    return this.#bytesIn('being copied');
  }

  get heldCount(): number {
    return this.#held.length;
  }

  get complete(): boolean {
    return this.#regions.every((region) => region.state === 'copied') && this.#held.length === 0;
  }

  get allCopiedOnce(): boolean {
    return this.#regions.every(({ once }) => once);
  }

  nextToCopy(bytesMax: number): ByteRange | undefined {
    const ahead = [...this.#regions.keys()].find(
      (index) => index >= this.#cursor && this.#isFree(index) && !this.#isHot(index),
    );
    if (ahead !== undefined)
      return this.#take(ahead, bytesMax, (index) => this.#isFree(index) && !this.#isHot(index));
    this.#around = true;
    const any = [...this.#regions.keys()].find((index) => this.#isFree(index));
    return any === undefined ? undefined : this.#take(any, bytesMax, (index) => this.#isFree(index));
  }

  #take(first: number, bytesMax: number, may: (index: number) => boolean): ByteRange {
    let end = first + 1;
    while (may(end) && (end + 1 - first) * this.#regionBytes <= bytesMax) end += 1;
    this.#cursor = end;
    const offset = first * this.#regionBytes;
    const range = { offset, length: Math.min(end * this.#regionBytes, this.#sizeBytes) - offset };
    for (const region of this.#touched(range)) {
      region.state = 'being copied';
      region.reads += 1;
    }
    this.#spellTook += (end - first) * this.#regionBytes;
    if (this.#spellTook >= (this.#spellBytes ?? Number.POSITIVE_INFINITY)) {
      this.#spellTook = 0;
      this.#spell += 1;
    }
    return range;
  }

  copyNumbered(range: ByteRange): readonly W[] {
    for (const region of this.#touched(range)) {
      region.reads -= 1;
      region.once = true;
      if (region.state === 'being copied') region.state = 'copied';
      if (this.#mistake === 'set-back-lost-while-being-copied') region.state = 'copied';
    }
    return this.#release();
  }

  copyFailed(range: ByteRange): readonly W[] {
    for (const region of this.#touched(range)) {
      region.reads -= 1;
      region.state = 'not copied';
    }
    return this.#release();
  }

  guestWrite(range: ByteRange, item: W): WriteVerdict {
    this.#wrote(range);
    const verdict = this.#verdict(range);
    if (verdict === 'held') this.#held.push({ range, item });
    return verdict;
  }

  setBack(range: ByteRange): void {
    this.#wrote(range);
    for (const region of this.#touched(range)) region.state = 'not copied';
  }

  /** All that its future depends on. */
  state(): string {
    const regions = this.#regions.map(({ state, reads, once }) => `${state} ${reads} ${once}`);
    return [
      this.#cursor,
      this.#around,
      this.#spell,
      this.#spellTook,
      ...this.#written.map((spells) => [...spells].join('+')),
      ...regions,
      ...this.#held.map((held) => `${held.range.offset} ${held.item}`),
    ].join();
  }

  #wrote(range: ByteRange): void {
    for (const region of this.#touched(range)) {
      const unit = Math.floor(this.#regions.indexOf(region) / this.#unitRegions);
      this.#written[unit] ??= new Set();
      this.#written[unit].add(this.#spell);
    }
  }

  #isHot(index: number): boolean {
    if (this.#spellBytes === undefined || this.#around) return false;
    return (this.#written[Math.floor(index / this.#unitRegions)]?.size ?? 0) > 1;
  }

  #verdict(range: ByteRange): WriteVerdict {
    const states = this.#touched(range).map((region) => region.state);
    if (this.#mistake === 'mildest-region-decides' && states.includes('not copied')) return 'nothing';
    if (states.includes('being copied')) {
      if (this.#mistake === 'mirrored-while-being-copied') return 'mirror';
      return this.#mistake === 'left-to-the-read-that-is-out' ? 'nothing' : 'held';
    }
    if (!states.includes('copied')) return 'nothing';
    if (this.#mistake === 'not-held-behind-held') return 'mirror';
    return this.#held.some((held) => this.#shareRegion(held.range, range)) ? 'held' : 'mirror';
  }

  #release(): readonly W[] {
    const released: W[] = [];
    const held: Held<W>[] = [];
    for (const write of this.#held) {
      const behindRead = this.#touched(write.range).some((region) => region.reads > 0);
      const behindHeld = held.some((earlier) => this.#shareRegion(earlier.range, write.range));
      if ((behindRead || behindHeld) && this.#mistake !== 'released-early') held.push(write);
      else released.push(write.item);
    }
    this.#held = held;
    return released;
  }

  #isFree(index: number): boolean {
    const region = this.#regions[index];
    if (region?.state !== 'not copied') return false;
    if (region.reads > 0 && this.#mistake !== 'read-twice-at-once') return false;
    if (this.#mistake === 'taken-under-a-held-write') return true;
    return !this.#held.some((held) => this.#touched(held.range).includes(region));
  }

  #touched(range: ByteRange): Region[] {
    return this.#regions.filter((_, index) => {
      const start = index * this.#regionBytes;
      return start < range.offset + range.length && range.offset < start + this.#regionBytes;
    });
  }

  #shareRegion(one: ByteRange, other: ByteRange): boolean {
    const regions = this.#touched(one);
    return this.#touched(other).some((region) => regions.includes(region));
  }

  #bytesIn(state: Region['state']): number {
    let bytes = 0;
    for (const [index, region] of this.#regions.entries()) {
      const start = index * this.#regionBytes;
      if (region.state === state) bytes += Math.min(start + this.#regionBytes, this.#sizeBytes) - start;
    }
    return bytes;
  }
}

/** The rules and the model side by side. Throws where they differ in anything that a caller can see. */
export class SideBySide implements RegionRules<number> {
  readonly #rules: RegionRules<number>;
  readonly #model: RegionsModel<number>;

  constructor(rules: RegionRules<number>, model: RegionsModel<number>) {
    this.#rules = rules;
    this.#model = model;
  }

  get notCopiedBytes(): number {
    return this.#both((rules) => rules.notCopiedBytes);
  }

  get beingCopiedBytes(): number {
    return this.#both((rules) => rules.beingCopiedBytes);
  }

  get heldCount(): number {
    return this.#both((rules) => rules.heldCount);
  }

  get complete(): boolean {
    return this.#both((rules) => rules.complete);
  }

  get allCopiedOnce(): boolean {
    return this.#both((rules) => rules.allCopiedOnce);
  }

  nextToCopy(bytesMax: number): ByteRange | undefined {
    return this.#both((rules) => rules.nextToCopy(bytesMax));
  }

  copyNumbered(range: ByteRange): readonly number[] {
    return this.#both((rules) => rules.copyNumbered(range));
  }

  copyFailed(range: ByteRange): readonly number[] {
    return this.#both((rules) => rules.copyFailed(range));
  }

  guestWrite(range: ByteRange, item: number): WriteVerdict {
    return this.#both((rules) => rules.guestWrite(range, item));
  }

  setBack(range: ByteRange): void {
    this.#both((rules) => rules.setBack(range));
  }

  /** All that their future depends on. */
  state(): string {
    return `${this.#model.state()} ${this.notCopiedBytes} ${this.beingCopiedBytes} ${this.allCopiedOnce}`;
  }

  #both<T>(call: (rules: RegionRules<number>) => T): T {
    const actual = call(this.#rules);
    const expected = call(this.#model);
    if (actual !== expected && JSON.stringify(actual) !== JSON.stringify(expected)) {
      throw new Error(`the rules say ${JSON.stringify(actual)}, the model ${JSON.stringify(expected)}`);
    }
    return actual;
  }
}
