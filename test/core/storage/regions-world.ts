import type { ByteRange } from '../../../src/interfaces/content.ts';
import type { Choose, Enter } from './enumerate.ts';
import type { RegionRules } from './regions-model.ts';

/** A guest and a disk, small enough that all that can happen to them can be tried. */
export interface Scenario {
  readonly sizeBytes: number;
  readonly regionBytes: number;
  /** What is written in two spells waits. Default: nothing. */
  readonly spellBytes?: number;
  readonly unitRegions?: number;
  /** The most that one bulk read takes. */
  readonly readBytesMax: number;
  /** No more is taken while so many bulk reads are out. */
  readonly readsMax: number;
  /** The guest's writes, the later one newer where they overlap. */
  readonly writes: readonly ByteRange[];
  /** How many guest writes may find the mirror's buffer full. */
  readonly setBacksMax: number;
  /** How many bulk reads may fail. */
  readonly failuresMax: number;
  /** When a bulk read gets its number. Anything but `after-read` is a mistake. */
  readonly numbering: 'after-read' | 'before-take' | 'after-release';
}

/** One numbered item of the disk's stream: the bytes from `offset`, each named by the write that it came from. */
export interface StreamItem {
  readonly number: number;
  readonly offset: number;
  readonly content: readonly number[];
}

/** How one interleaving ended. */
export interface Ending {
  /** In the order of the numbers. */
  readonly stream: readonly StreamItem[];
  /** The source's medium at the end. */
  readonly medium: readonly number[];
  /** What is wrong, if anything is. */
  readonly problem: string | undefined;
}

/** A bulk read that is out, and all values that each of its bytes has had on the medium since it began. */
interface Read {
  readonly range: ByteRange;
  readonly seen: readonly Set<number>[];
  /** If the number was taken before the read (a mistake). */
  readonly number: number | undefined;
}

const STEPS_MAX = 200;

/**
 * Goes through one interleaving of guest writes (on the medium; told to the rules), bulk reads (begun; ended, with any torn content
 * that the medium has shown meanwhile; or failed) and a full mirror buffer, as `choose` decides. At the end nothing is under way,
 * and applying the stream by number must give the source's medium. Undefined if the path is only another one's detour, or `enter` does
 * not want to go on from the world's state (the rules' own state is not in it).
 */
export function play(
  rules: RegionRules<number>,
  scenario: Scenario,
  choose: Choose,
  enter: Enter = () => true,
): Ending | undefined {
  const world = new World(rules, scenario, choose);
  for (let step = 0; step < STEPS_MAX; step++) {
    if (!enter(() => world.state())) return undefined;
    const actions = world.actions();
    const action = actions[actions.length > 1 ? choose(actions.length) : 0];
    if (action === undefined) return world.ending();
    if (!action()) return actions.length > 1 ? undefined : world.ending();
  }
  throw new Error('the interleaving does not end');
}

/** What applying items by number, lowest first, leaves on a disk of zeros. */
export function applied(stream: readonly StreamItem[], sizeBytes: number): number[] {
  const disk = new Array<number>(sizeBytes).fill(0);
  for (const item of [...stream].sort((a, b) => a.number - b.number)) {
    for (const [index, value] of item.content.entries()) disk[item.offset + index] = value;
  }
  return disk;
}

class World {
  readonly #rules: RegionRules<number>;
  readonly #scenario: Scenario;
  readonly #choose: Choose;
  /** 0, or 1 + the index of the write that a byte comes from. */
  readonly #medium: number[];
  readonly #progress: ('issued' | 'landed' | 'told')[];
  readonly #stream: StreamItem[] = [];
  #reads: Read[] = [];
  #unnumbered: Omit<StreamItem, 'number'>[] = [];
  #reserved: number[] = [];
  #lastNumber = 0;
  #setBacks = 0;
  #failures = 0;

  constructor(rules: RegionRules<number>, scenario: Scenario, choose: Choose) {
    this.#rules = rules;
    this.#scenario = scenario;
    this.#choose = choose;
    this.#medium = new Array<number>(scenario.sizeBytes).fill(0);
    this.#progress = scenario.writes.map(() => 'issued');
  }

  /** All that may happen next. An action returns false if it found nothing to do. */
  actions(): (() => boolean)[] {
    const actions: (() => boolean)[] = [];
    for (const [index, progress] of this.#progress.entries()) {
      if (progress === 'issued' && this.#mayLand(index)) actions.push(() => this.#land(index));
      if (progress === 'landed') actions.push(() => this.#tell(index));
    }
    for (const read of this.#reads) actions.push(() => this.#endRead(read));
    for (const item of this.#unnumbered) actions.push(() => this.#numberLate(item));
    if (this.#rules.notCopiedBytes > 0 && this.#reads.length < this.#scenario.readsMax) {
      const early = this.#scenario.numbering === 'before-take' && this.#reserved.length === 0;
      actions.push(early ? () => this.#reserve() : () => this.#beginRead());
    }
    return actions;
  }

  state(): string {
    const reads = this.#reads.map(({ range, seen }) => [range.offset, seen.map((values) => [...values])]);
    const destination = applied(this.#stream, this.#medium.length);
    return JSON.stringify([this.#medium, this.#progress, destination, reads, this.#setBacks, this.#failures]);
  }

  ending(): Ending {
    const medium = this.#medium;
    const destination = applied(this.#stream, medium.length);
    let problem: string | undefined;
    if (destination.join() !== medium.join()) problem = `destination ${destination}, source ${medium}`;
    if (!this.#rules.complete || this.#rules.heldCount > 0)
      problem = 'stuck: nothing to do, and not complete';
    return { stream: this.#stream, medium, problem };
  }

  /** Of two overlapping writes the second reaches the medium only after the first was told. */
  #mayLand(index: number): boolean {
    const range = this.#scenario.writes[index];
    return this.#scenario.writes
      .slice(0, index)
      .every((earlier, other) => this.#progress[other] === 'told' || !overlap(earlier, range));
  }

  #land(index: number): boolean {
    const range = this.#scenario.writes[index] ?? { offset: 0, length: 0 };
    this.#progress[index] = 'landed';
    for (let byte = range.offset; byte < range.offset + range.length; byte++) {
      this.#medium[byte] = index + 1;
      for (const read of this.#reads) read.seen[byte - read.range.offset]?.add(index + 1);
    }
    return true;
  }

  #tell(index: number): boolean {
    const range = this.#scenario.writes[index] ?? { offset: 0, length: 0 };
    this.#progress[index] = 'told';
    if (this.#setBacks < this.#scenario.setBacksMax && this.#choose(2) === 1) {
      this.#setBacks += 1;
      this.#rules.setBack(range);
    } else if (this.#rules.guestWrite(range, index) === 'mirror') {
      this.#mirror(index);
    }
    return true;
  }

  #mirror(index: number): void {
    const { offset, length } = this.#scenario.writes[index] ?? { offset: 0, length: 0 };
    this.#send({ offset, content: new Array<number>(length).fill(index + 1) });
  }

  #reserve(): boolean {
    this.#reserved.push(this.#nextNumber());
    return true;
  }

  #beginRead(): boolean {
    const range = this.#rules.nextToCopy(this.#scenario.readBytesMax);
    if (range === undefined) return false;
    const number = this.#reserved.shift();
    for (const piece of this.#pieces(range)) {
      const now = this.#medium.slice(piece.offset, piece.offset + piece.length);
      this.#reads.push({ range: piece, seen: now.map((value) => new Set([value])), number });
    }
    return true;
  }

  /** A stretch of several regions may be read, and numbered, at once or region by region. */
  #pieces(range: ByteRange): ByteRange[] {
    const { regionBytes } = this.#scenario;
    if (range.length <= regionBytes || this.#choose(2) === 0) return [range];
    const pieces: ByteRange[] = [];
    for (let at = 0; at < range.length; at += regionBytes) {
      pieces.push({ offset: range.offset + at, length: Math.min(regionBytes, range.length - at) });
    }
    return pieces;
  }

  #endRead(read: Read): boolean {
    this.#reads = this.#reads.filter((other) => other !== read);
    const { range } = read;
    if (this.#failures < this.#scenario.failuresMax && this.#choose(2) === 1) {
      this.#failures += 1;
      for (const index of this.#rules.copyFailed(range)) this.#mirror(index);
      return true;
    }
    const content = read.seen.map((values) => this.#oneOf([...values]));
    const item = { offset: range.offset, content };
    if (this.#scenario.numbering === 'after-release') this.#unnumbered.push(item);
    else this.#send(item, read.number);
    for (const index of this.#rules.copyNumbered(range)) this.#mirror(index);
    return true;
  }

  #numberLate(item: Omit<StreamItem, 'number'>): boolean {
    this.#unnumbered = this.#unnumbered.filter((other) => other !== item);
    this.#send(item);
    return true;
  }

  #send(item: Omit<StreamItem, 'number'>, number = this.#nextNumber()): void {
    this.#stream.push({ ...item, number });
  }

  #nextNumber(): number {
    this.#lastNumber += 1;
    return this.#lastNumber;
  }

  #oneOf(values: readonly number[]): number {
    return values[values.length > 1 ? this.#choose(values.length) : 0] ?? 0;
  }
}

function overlap(one: ByteRange, other: ByteRange | undefined): boolean {
  if (other === undefined) return false;
  return one.offset < other.offset + other.length && other.offset < one.offset + one.length;
}
