import type { ReadableDisk } from '../../interfaces/block-device.ts';
import type { CallOptions, Chunks } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { PageRange } from '../../interfaces/memory.ts';
import type { Prng } from '../../util/prng.ts';
import { deferred, throwIfAborted } from '../../util/promises.ts';
import { quickDigest } from '../../util/quick-digest.ts';
import { memoryStream } from '../../wire/messages.ts';
import type { AuditUnit } from './audit-units.ts';

/** What one call reads of memory at first, and at most: a hypervisor may be slow, and the clock is looked at in between. */
const memoryCallUnits = { first: 16, most: 128 };
const memoryCallBytes = 4 << 20;
/** Reads in flight on one disk. */
const diskReads = 8;
/** So many failed reads of a disk, and no more are tried. */
const failuresMax = 8;
/** When a sample's time is over, what a disk still brings is waited for so long. */
const lateMs = 20;

/** An end's backend, as far as the audit reads it. */
export interface UnitReaderOptions {
  /** Undefined where memory does not move, or cannot be read. */
  readonly readMemory:
    | ((ranges: readonly PageRange[], options: CallOptions) => Promise<readonly (Chunks | undefined)[]>)
    | undefined;
  /** The disks that are copied, by the numbers of their streams. */
  readonly disks: ReadonlyMap<number, ReadableDisk>;
  readonly environment: Environment;
}

/** How units are to be read. */
export interface ReadingOrder {
  /** Nothing more is begun past this time, on the environment's clock; all streams begin with something. Default: all is read. */
  readonly untilMs?: number;
  /** Reads in a random order, so that what is left out when time is up is nowhere in particular. Default: in the order given. */
  readonly shuffle?: Prng;
  readonly signal: AbortSignal;
}

/** Reads units of memory and disks as the backend has them: memory call by call, and beside it each disk. */
export class UnitReader {
  readonly #options: UnitReaderOptions;

  constructor(options: UnitReaderOptions) {
    this.#options = options;
  }

  /**
   * A digest of each unit, in the order given; undefined for those that cannot be read, or for which there was no time. An audit that sees less is
   * no reason for a migration to fail; rejects only when the signal is aborted.
   */
  async digests(
    units: readonly AuditUnit[],
    order: ReadingOrder,
  ): Promise<readonly (Uint8Array | undefined)[]> {
    const digests: (Uint8Array | undefined)[] = units.map(() => undefined);
    const lanes = new Map<number, number[]>();
    for (const [index, { stream }] of shuffled([...units.entries()], order.shuffle)) {
      const lane = lanes.get(stream);
      if (lane === undefined) lanes.set(stream, [index]);
      else lane.push(index);
    }
    const note = (index: number, content: Chunks | undefined) => {
      if (content !== undefined) digests[index] = quickDigest(content);
    };
    await Promise.all(
      [...lanes].map(([stream, lane]) =>
        stream === memoryStream
          ? this.#readMemory(units, lane, order, note)
          : this.#readDisk(stream, units, lane, order, note),
      ),
    );
    return digests;
  }

  async #readMemory(
    units: readonly AuditUnit[],
    lane: readonly number[],
    order: ReadingOrder,
    note: (index: number, content: Chunks | undefined) => void,
  ): Promise<void> {
    const { readMemory, environment } = this.#options;
    if (readMemory === undefined) return;
    const startMs = environment.now();
    let unitsMax = memoryCallUnits.first;
    for (let at = 0; at < lane.length && unitsMax > 0; ) {
      const call: number[] = [];
      for (let bytes = 0; at < lane.length && call.length < unitsMax && bytes < memoryCallBytes; at++) {
        const index = lane[at] ?? 0;
        bytes += units[index]?.length ?? 0;
        call.push(index);
      }
      // Neighbours side by side, for a backend that can read them as one.
      call.sort((a, b) => a - b);
      const ranges = call.flatMap((index) => {
        const unit = units[index];
        return unit === undefined ? [] : [{ region: unit.space, offset: unit.offset, length: unit.length }];
      });
      const contents = await readMemory(ranges, { signal: order.signal }).catch(() => undefined);
      throwIfAborted(order.signal);
      if (contents === undefined) return;
      for (const [position, index] of call.entries()) note(index, contents[position]);
      // No more than fits in what is left of the time, as it went so far.
      const unitMs = (environment.now() - startMs) / at;
      const leftMs = (order.untilMs ?? Number.POSITIVE_INFINITY) - environment.now();
      const fitting = unitMs > 0 ? Math.floor(leftMs / unitMs) : memoryCallUnits.most;
      unitsMax = Math.min(2 * unitsMax, memoryCallUnits.most, fitting);
    }
  }

  async #readDisk(
    stream: number,
    units: readonly AuditUnit[],
    lane: readonly number[],
    order: ReadingOrder,
    note: (index: number, content: Chunks | undefined) => void,
  ): Promise<void> {
    const disk = this.#options.disks.get(stream);
    if (disk === undefined) return;
    const { signal } = order;
    let [next, failures, over] = [0, 0, false];
    const read = async () => {
      while (!over && next < lane.length && (next < diskReads || this.#inTime(order))) {
        const index = lane[next++] ?? 0;
        const { offset, length } = units[index] ?? { offset: 0, length: 0 };
        const content = await disk.read(offset, length, { signal }).catch(() => undefined);
        throwIfAborted(signal);
        // A disk at the destination may be one that can be written only, or hold parts that cannot be read.
        if (content === undefined) over ||= ++failures >= failuresMax;
        if (!over) note(index, content);
      }
    };
    const reading = Promise.all(Array.from({ length: diskReads }, read));
    await this.#untilLate(reading, order);
    over = true;
  }

  /** What a disk that hangs is still to bring is not waited for. Where all is to be read there is no limit but that of the stun. */
  async #untilLate(reading: Promise<unknown>, { untilMs }: ReadingOrder): Promise<void> {
    if (untilMs === undefined) {
      await reading;
      return;
    }
    const { environment } = this.#options;
    const late = deferred<void>();
    const leftMs = Math.max(0, untilMs - environment.now()) + lateMs;
    const cancel = environment.setTimer(leftMs, () => late.resolve());
    reading.catch(() => {});
    await Promise.race([reading, late.promise]).finally(cancel);
  }

  #inTime({ untilMs }: ReadingOrder): boolean {
    return untilMs === undefined || this.#options.environment.now() < untilMs;
  }
}

/** Fisher and Yates's way. */
function shuffled<T>(items: T[], prng: Prng | undefined): readonly T[] {
  if (prng === undefined) return items;
  for (let last = items.length - 1; last > 0; last--) {
    const pick = prng.below(last + 1);
    [items[last], items[pick]] = [items[pick] as T, items[last] as T];
  }
  return items;
}
