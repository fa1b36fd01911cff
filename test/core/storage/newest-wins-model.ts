import type { NewestWins, Part } from '../../../src/core/storage/newest-wins.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';
import type { Choose, Enter } from './enumerate.ts';

/** What the tests need of {@link NewestWins}. */
export type ArrivalRules = Pick<NewestWins, 'arrived' | 'begin' | 'finished' | 'appliedThrough'>;

/** Ways to get the rules wrong, each of which leaves old content, or none, in some order of events. */
export type ArrivalMistake =
  /** What comes last is written last. */
  | 'last-to-arrive-wins'
  /** An item gives way as a whole where a newer one has taken a part. */
  | 'gives-way-as-a-whole'
  /** Nobody waits for a write in flight. */
  | 'does-not-wait'
  /** Only the newest of several writes in flight is waited for. */
  | 'waits-for-one'
  /** An item's claim is forgotten when it has been written. */
  | 'forgets-when-finished'
  /** What an item has claimed and a newer one as well is left to the newer one, also where that has not claimed all of it. */
  | 'overtaken-as-a-whole';

interface Item {
  readonly parts: readonly Part[];
  readonly bytes: readonly number[];
  finished: boolean;
}

/** The rules in their plainest form, byte by byte, and with a mistake if one is given. */
export class NewestWinsModel implements ArrivalRules {
  readonly #mistake: ArrivalMistake | undefined;
  readonly #items = new Map<number, Item>();
  appliedThrough = 0;

  constructor(mistake?: ArrivalMistake) {
    this.#mistake = mistake;
  }

  arrived(number: number, ranges: readonly ByteRange[]): readonly number[] {
    const parts: Part[] = [];
    for (const [index, range] of ranges.entries()) {
      for (const offset of bytesOf(range)) {
        if (!this.#isTaken(offset, number)) parts.push({ index, offset, length: 1 });
        else if (this.#mistake === 'gives-way-as-a-whole') return this.#begun(number, []);
      }
    }
    return this.#begun(number, parts);
  }

  begin(number: number): readonly Part[] {
    const { parts = [] } = this.#items.get(number) ?? {};
    const left = parts.filter(({ offset }) => !this.#isTaken(offset, number));
    return this.#mistake === 'overtaken-as-a-whole' && left.length < parts.length ? [] : left;
  }

  finished(number: number): void {
    const item = this.#items.get(number);
    if (item !== undefined) item.finished = true;
    while (this.#items.get(this.appliedThrough + 1)?.finished) this.appliedThrough += 1;
  }

  #begun(number: number, parts: readonly Part[]): readonly number[] {
    const bytes = parts.map((part) => part.offset);
    const writing = [...this.#items].filter(([, { finished }]) => !finished);
    const after = writing
      .filter(([, other]) => other.bytes.some((byte) => bytes.includes(byte)))
      .map(([other]) => other);
    this.#items.set(number, { parts, bytes, finished: false });
    if (this.#mistake === 'does-not-wait') return [];
    return this.#mistake === 'waits-for-one' ? after.slice(-1) : after;
  }

  #isTaken(byte: number, number: number): boolean {
    if (this.#mistake === 'last-to-arrive-wins') return false;
    return this.#claimants(byte).some((other) => other > number);
  }

  #claimants(byte: number): number[] {
    return [...this.#items]
      .filter(([, { bytes }]) => bytes.includes(byte))
      .filter(([, { finished }]) => this.#mistake !== 'forgets-when-finished' || !finished)
      .map(([number]) => number);
  }
}

/** What one item covers. Its content is its number, in every byte. */
export interface Arrival {
  readonly number: number;
  readonly ranges: readonly ByteRange[];
}

interface Write {
  readonly number: number;
  readonly ranges: readonly ByteRange[];
  /** Empty before it is being written. */
  bytes: readonly number[];
  readonly after: readonly number[];
  state: 'waiting' | 'writing' | 'finished';
}

/** How one order of events ended. */
export interface Outcome {
  /** The item that each byte is of. */
  readonly disk: ReadonlyMap<number, number>;
  /**
   * What is wrong, if anything is: two writes to one byte in flight together, which may end up torn in any way; a part that is not
   * the item's; or, at the end, a byte that is not of the highest number that covers it.
   */
  readonly problem: string | undefined;
}

/**
 * Lets items arrive and writes end in one order, as `choose` decides; a write begins when those before it have ended.
 * Undefined if `enter` does not want to go on from a state.
 */
export function applyInSomeOrder(
  rules: ArrivalRules,
  items: readonly Arrival[],
  choose: Choose,
  enter: Enter = () => true,
): Outcome | undefined {
  const coming = [...items];
  const writes: Write[] = [];
  const disk = new Map<number, number>();
  for (;;) {
    if (!enter(() => JSON.stringify([coming, writes, [...disk]]))) return undefined;
    const ending = writes.filter((write) => write.state === 'writing');
    const options = coming.length + ending.length;
    if (options === 0) return { disk, problem: wrongAtTheEnd(rules, items, writes, disk) };
    const choice = options > 1 ? choose(options) : 0;
    const write = ending[choice - coming.length];
    if (write !== undefined) end(write, disk, rules);
    else for (const item of coming.splice(choice, 1)) arrive(item, writes, rules);
    const problem = startWrites(writes, rules);
    if (problem !== undefined) return { disk, problem };
  }
}

function arrive({ number, ranges }: Arrival, writes: Write[], rules: ArrivalRules): void {
  writes.push({ number, ranges, bytes: [], after: rules.arrived(number, ranges), state: 'waiting' });
}

function wrongAtTheEnd(
  rules: ArrivalRules,
  items: readonly Arrival[],
  writes: readonly Write[],
  disk: ReadonlyMap<number, number>,
): string | undefined {
  if (writes.some((write) => write.state !== 'finished')) return 'some wait for ever';
  if (rules.appliedThrough !== items.length) return `applied through ${rules.appliedThrough} only`;
  const newest = new Map<number, number>();
  for (const { number, ranges } of items) {
    for (const range of ranges) {
      for (const byte of bytesOf(range)) newest.set(byte, Math.max(number, newest.get(byte) ?? 0));
    }
  }
  for (const [byte, number] of newest) {
    if (disk.get(byte) !== number) return `byte ${byte} is of ${disk.get(byte)}, not of ${number}`;
  }
  return undefined;
}

/** Begins every write that need not wait any more. */
function startWrites(writes: readonly Write[], rules: ArrivalRules): string | undefined {
  const unfinished = writes.filter((write) => write.state !== 'finished').map((write) => write.number);
  for (const write of writes) {
    if (write.state !== 'waiting' || write.after.some((number) => unfinished.includes(number))) continue;
    const parts = rules.begin(write.number);
    const stray = parts.find((part) => !contains(write.ranges[part.index], part));
    if (stray !== undefined) return `${write.number} has no ${JSON.stringify(stray)}`;
    write.bytes = parts.flatMap(bytesOf);
    const together = writes.find(
      (other) => other.state === 'writing' && other.bytes.some((byte) => write.bytes.includes(byte)),
    );
    if (together !== undefined) return `${write.number} and ${together.number} are written together`;
    write.state = 'writing';
  }
  return undefined;
}

function end(write: Write, disk: Map<number, number>, rules: ArrivalRules): void {
  write.state = 'finished';
  for (const byte of write.bytes) disk.set(byte, write.number);
  rules.finished(write.number);
}

function contains(range: ByteRange | undefined, part: ByteRange): boolean {
  if (range === undefined || part.length < 1) return false;
  return part.offset >= range.offset && part.offset + part.length <= range.offset + range.length;
}

/** The offset of each byte of a range. */
export function bytesOf(range: ByteRange): number[] {
  const bytes: number[] = [];
  for (let byte = range.offset; byte < range.offset + range.length; byte++) bytes.push(byte);
  return bytes;
}
