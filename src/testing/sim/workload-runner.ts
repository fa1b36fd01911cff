import { requireArgument } from '../../backends/memory/arguments.ts';
import type { CancelTimer, Environment } from '../../interfaces/environment.ts';
import { unreachable } from '../../util/assert.ts';
import { Prng, type PrngState } from '../../util/prng.ts';
import type { OltpWorkload, SimulatedWorkload } from './workloads.ts';

/** No timer is shorter than this: fast workloads do what is due at each tick in one go. */
const tickMsMin = 1;
/** How often a memory dirtier and an idle guest get their turn. */
const tickMsSteady = 10;
/** And none is longer, so that very slow workloads look at the clock now and then. */
const tickMsMax = 60_000;
/** Work that could not be done in time is made up for as far back as this, then it is lost. */
const catchUpMs = 500;
/** What sums of fractions may be off by. */
const rounding = 1e-6;

/** A workload and how far it has come: all that it takes to go on elsewhere. Plain data. */
export interface RunnerState {
  readonly name: string;
  readonly spec: SimulatedWorkload;
  readonly prng: PrngState;
  /** Steps that are due already, with fractions. */
  readonly due: number;
  /** Steps done. */
  readonly steps: number;
}

/** What a workload works on. */
export interface WorkloadGuest {
  readonly environment: Environment;
  readonly memoryBytes: number;
  readonly pageBytes: number;
  /** A disk's size and block size; undefined if there is none. */
  disk(
    id: string,
  ): { readonly sizeBytes: number; readonly blockBytes: number; readonly readOnly: boolean } | undefined;
  /** Disk operations; they resolve when the guest is told, and count for the workload. They never reject. */
  read(name: string, disk: string, offset: number, length: number): Promise<void>;
  write(name: string, disk: string, offset: number, length: number): Promise<void>;
  /** As `write`, of what an allocated block held when the disk was made. */
  undo(name: string, disk: string, offset: number, length: number): Promise<void>;
  /** As `write`; the range reads as zeros then. */
  discard(name: string, disk: string, offset: number, length: number): Promise<void>;
  /** Touches pages; all touches between two ticks are one write. */
  touch(address: number, length: number): void;
  /** A tick of a workload that touched so many bytes. */
  touched(name: string, bytes: number): void;
}

/**
 * Does a workload's steps at its pace while it is started. What the steps are depends on nothing but the
 * state.
 */
export class WorkloadRunner {
  readonly name: string;
  readonly #guest: WorkloadGuest;
  readonly #spec: SimulatedWorkload;
  readonly #prng: Prng;
  readonly #stepsPerMs: number;
  readonly #tickMs: number;
  readonly #queueDepth: number;
  #due: number;
  #steps: number;
  #throttle = 0;
  #inFlight = 0;
  /** When `#due` was brought up to date; undefined while stopped. */
  #accruedAt: number | undefined;
  #cancelTimer: CancelTimer | undefined;

  /** Stopped. Throws `invalid-argument` if its rate is none. */
  constructor(guest: WorkloadGuest, state: RunnerState) {
    this.name = state.name;
    this.#guest = guest;
    this.#spec = state.spec;
    this.#prng = new Prng(state.prng);
    this.#due = state.due;
    this.#steps = state.steps;
    const { stepsPerSecond, burst, queueDepth } = pace(state.spec, guest.pageBytes);
    requireArgument(stepsPerSecond > 0 && Number.isFinite(stepsPerSecond), `workload ${this.name}: its rate`);
    this.#stepsPerMs = stepsPerSecond / 1000;
    this.#tickMs = Math.min(tickMsMax, Math.max(tickMsMin, burst / this.#stepsPerMs));
    this.#queueDepth = queueDepth;
  }

  start(): void {
    if (this.#accruedAt !== undefined) return;
    this.#accruedAt = this.#guest.environment.now();
    this.#schedule();
  }

  stop(): void {
    this.#accrue();
    this.#accruedAt = undefined;
    this.#cancelTimer?.();
    this.#cancelTimer = undefined;
  }

  /** Slows it down by a fraction, 0 to 0.99, from now on. */
  setThrottle(fraction: number): void {
    this.#accrue();
    this.#throttle = fraction;
  }

  /** Complete while it is stopped and none of its operations is in flight. */
  state(): RunnerState {
    const { name } = this;
    return { name, spec: this.#spec, prng: this.#prng.state(), due: this.#due, steps: this.#steps };
  }

  #accrue(): void {
    if (this.#accruedAt === undefined) return;
    const now = this.#guest.environment.now();
    const steps = (now - this.#accruedAt) * this.#stepsPerMs * (1 - this.#throttle);
    this.#due = Math.min(this.#due + steps, 1 + catchUpMs * this.#stepsPerMs);
    this.#accruedAt = now;
  }

  #schedule(): void {
    this.#cancelTimer = this.#guest.environment.setTimer(this.#tickMs, () => {
      if (this.#accruedAt === undefined) return;
      this.#accrue();
      this.#work();
      this.#schedule();
    });
  }

  /** Does what is due, as far as the queue depth allows. */
  #work(): void {
    const { kind } = this.#spec;
    switch (kind) {
      case 'oltp':
        while (this.#due >= this.#spec.burst - rounding && this.#inFlight < this.#queueDepth) {
          for (let one = 0; one < this.#spec.burst && this.#inFlight < this.#queueDepth; one++) {
            this.#step(() => this.#transact());
          }
        }
        return;
      case 'sequential-writer':
        while (this.#due >= 1 - rounding && this.#inFlight < this.#queueDepth)
          this.#step(() => this.#append());
        return;
      case 'memory-dirtier': {
        const pages = Math.floor(this.#due + rounding);
        this.#due -= pages;
        this.#steps += pages;
        if (pages > 0) this.#dirty(pages);
        return;
      }
      case 'idle':
        this.#due = 0;
        this.#steps++;
        this.#guest.touched(this.name, 0);
        return;
      default:
        unreachable(kind);
    }
  }

  #step(operation: () => Promise<void>): void {
    this.#due -= 1;
    this.#inFlight++;
    void operation().then(() => {
      this.#inFlight--;
      if (this.#accruedAt !== undefined) this.#work();
    });
    this.#steps++;
  }

  #transact(): Promise<void> {
    if (this.#spec.kind !== 'oltp') return Promise.resolve();
    const { disk, readFraction, undoFraction, discardFraction } = this.#spec;
    const [offset, length] = this.#place(this.#spec);
    const reads = this.#prng.fraction() < readFraction;
    const undoes = undoFraction !== undefined && this.#prng.fraction() < undoFraction;
    const discards = discardFraction !== undefined && this.#prng.fraction() < discardFraction;
    if (reads) return this.#guest.read(this.name, disk, offset, length);
    if (discards) return this.#guest.discard(this.name, disk, offset, length);
    return undoes
      ? this.#guest.undo(this.name, disk, offset, length)
      : this.#guest.write(this.name, disk, offset, length);
  }

  /** Where the next operation is: its offset and its length. */
  #place({ disk, ioBytes, hotBytes, alignBytes }: OltpWorkload): readonly [number, number] {
    const bytes = Math.min(this.#guest.disk(disk)?.sizeBytes ?? 0, hotBytes ?? Number.POSITIVE_INFINITY);
    if (alignBytes === undefined) {
      return [this.#prng.below(Math.max(1, Math.floor(bytes / ioBytes))) * ioBytes, ioBytes];
    }
    const offset = this.#prng.below(Math.ceil(bytes / alignBytes)) * alignBytes;
    return [offset, Math.min(ioBytes, bytes - offset)];
  }

  #append(): Promise<void> {
    if (this.#spec.kind !== 'sequential-writer') return Promise.resolve();
    const { disk, ioBytes } = this.#spec;
    const places = Math.max(1, Math.floor((this.#guest.disk(disk)?.sizeBytes ?? 0) / ioBytes));
    return this.#guest.write(this.name, disk, (this.#steps % places) * ioBytes, ioBytes);
  }

  #dirty(pages: number): void {
    if (this.#spec.kind !== 'memory-dirtier') return;
    const { hotBytes, hotFraction, coldBytes } = this.#spec;
    const { pageBytes } = this.#guest;
    const hotTouches = coldBytes > 0 ? Math.floor(pages * hotFraction + this.#prng.fraction()) : pages;
    this.#touchPages(0, Math.floor(hotBytes / pageBytes), hotTouches);
    this.#touchPages(Math.floor(hotBytes / pageBytes), Math.floor(coldBytes / pageBytes), pages - hotTouches);
    this.#guest.touched(this.name, pages * pageBytes);
  }

  #touchPages(first: number, count: number, touches: number): void {
    const { pageBytes } = this.#guest;
    if (count === 0 || touches <= 0) return;
    // So many touches leave hardly a page out: one stretch stands for them all.
    if (touches >= 4 * count) {
      this.#guest.touch(first * pageBytes, count * pageBytes);
      return;
    }
    for (let touch = 0; touch < touches; touch++) {
      this.#guest.touch((first + this.#prng.below(count)) * pageBytes, pageBytes);
    }
  }
}

/** Throws `invalid-argument` unless the workload suits the guest. */
export function checkWorkload(spec: SimulatedWorkload, guest: WorkloadGuest): void {
  switch (spec.kind) {
    case 'idle':
      return;
    case 'memory-dirtier':
      requireArgument(
        spec.hotBytes >= guest.pageBytes && spec.hotBytes + spec.coldBytes <= guest.memoryBytes,
        'workload memory-dirtier: its pages are not within the memory',
      );
      return;
    case 'oltp':
    case 'sequential-writer': {
      const disk = guest.disk(spec.disk);
      const whole = disk !== undefined && spec.ioBytes > 0 && spec.ioBytes % disk.blockBytes === 0;
      requireArgument(
        whole && !disk.readOnly,
        `workload ${spec.kind}: disk ${spec.disk} and ${spec.ioBytes}`,
      );
      if (spec.kind === 'oltp') checkPlaces(spec, disk);
      const hotBytes = spec.kind === 'oltp' ? (spec.hotBytes ?? disk.sizeBytes) : disk.sizeBytes;
      requireArgument(Math.min(hotBytes, disk.sizeBytes) >= spec.ioBytes, `workload ${spec.kind}: no room`);
      return;
    }
    default:
      unreachable(spec);
  }
}

/** Wherever an operation begins or ends, whole blocks do, or the disk. */
function checkPlaces(
  spec: OltpWorkload,
  disk: { readonly sizeBytes: number; readonly blockBytes: number },
): void {
  const { alignBytes = spec.ioBytes, hotBytes = disk.sizeBytes } = spec;
  const ends = alignBytes === spec.ioBytes || hotBytes >= disk.sizeBytes || hotBytes % disk.blockBytes === 0;
  const fits = alignBytes >= 1 && alignBytes % disk.blockBytes === 0 && ends;
  requireArgument(fits, `workload oltp: alignBytes ${alignBytes}, hotBytes ${hotBytes}`);
}

interface Pace {
  readonly stepsPerSecond: number;
  readonly burst: number;
  readonly queueDepth: number;
}

function pace(spec: SimulatedWorkload, pageBytes: number): Pace {
  switch (spec.kind) {
    case 'oltp':
      return { stepsPerSecond: spec.iops, burst: spec.burst, queueDepth: spec.queueDepth };
    case 'sequential-writer':
      return { stepsPerSecond: spec.bytesPerSecond / spec.ioBytes, burst: 1, queueDepth: spec.queueDepth };
    case 'memory-dirtier': {
      const stepsPerSecond = spec.bytesPerSecond / pageBytes;
      return { stepsPerSecond, burst: (stepsPerSecond * tickMsSteady) / 1000, queueDepth: 0 };
    }
    case 'idle':
      return { stepsPerSecond: 1000 / tickMsSteady, burst: 1, queueDepth: 0 };
    default:
      return unreachable(spec);
  }
}
