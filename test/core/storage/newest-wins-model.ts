import type { NewestWins, Part, Turn } from '../../../src/core/storage/newest-wins.ts';
import type { ByteRange } from '../../../src/interfaces/content.ts';
import type { Choose, Enter } from './enumerate.ts';

/** What the tests need of {@link NewestWins}. */
export type ArrivalRules = Pick<NewestWins, 'begin' | 'finished' | 'appliedThrough'>;

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
  /** An item claims its bytes when it has been written. */
  | 'claims-when-finished'
  /** An item's claim is forgotten when it has been written. */
  | 'forgets-when-finished';

interface Item extends Turn {
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

  begin(number: number, ranges: readonly ByteRange[]): Turn {
    const parts: Part[] = [];
    for (const [index, range] of ranges.entries()) {
      for (const offset of bytesOf(range)) {
        const isTaken = this.#claimants(offset).some((other) => other > number);
        if (!isTaken || this.#mistake === 'last-to-arrive-wins') parts.push({ index, offset, length: 1 });
        else if (this.#mistake === 'gives-way-as-a-whole') return this.#begun(number, []);
      }
    }
    return this.#begun(number, parts);
  }

  finished(number: number): void {
    const item = this.#items.get(number);
    if (item !== undefined) item.finished = true;
    while (this.#items.get(this.appliedThrough + 1)?.finished) this.appliedThrough += 1;
  }

  #begun(number: number, parts: readonly Part[]): Turn {
    const bytes = parts.map((part) => part.offset);
    const writing = [...this.#items].filter(([, { finished }]) => !finished);
    let after = writing
      .filter(([, other]) => other.bytes.some((byte) => bytes.includes(byte)))
      .map(([other]) => other);
    if (this.#mistake === 'does-not-wait') after = [];
    if (this.#mistake === 'waits-for-one') after = after.slice(-1);
    const turn = { parts, after };
    this.#items.set(number, { ...turn, bytes, finished: false });
    return turn;
  }

  #claimants(byte: number): number[] {
    return [...this.#items]
      .filter(([, { bytes }]) => bytes.includes(byte))
      .filter(([, { finished }]) => this.#mistake !== 'forgets-when-finished' || !finished)
      .filter(([, { finished }]) => this.#mistake !== 'claims-when-finished' || finished)
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
  readonly bytes: readonly number[];
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
    let problem: string | undefined;
    if (write !== undefined) end(write, disk, rules);
    else for (const item of coming.splice(choice, 1)) problem = arrive(item, writes, rules);
    problem ??= startWrites(writes);
    if (problem !== undefined) return { disk, problem };
  }
}

function arrive(item: Arrival, writes: Write[], rules: ArrivalRules): string | undefined {
  const { parts, after } = rules.begin(item.number, item.ranges);
  const stray = parts.find((part) => !contains(item.ranges[part.index], part));
  if (stray !== undefined) return `${item.number} has no ${JSON.stringify(stray)}`;
  writes.push({ number: item.number, bytes: parts.flatMap(bytesOf), after, state: 'waiting' });
  return undefined;
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
function startWrites(writes: readonly Write[]): string | undefined {
  const unfinished = writes.filter((write) => write.state !== 'finished').map((write) => write.number);
  for (const write of writes) {
    if (write.state !== 'waiting' || write.after.some((number) => unfinished.includes(number))) continue;
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
