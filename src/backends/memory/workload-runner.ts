import type { CancelTimer, Environment } from '../../interfaces/environment.ts';
import type { MemoryRegion } from '../../interfaces/memory.ts';
import { unreachable } from '../../util/assert.ts';
import { Prng, type PrngState } from '../../util/prng.ts';
import { requireArgument } from './arguments.ts';
import type { WorkloadSpec } from './workloads.ts';

/** What a memory dirtier counts as one step. */
const STEP_BYTES = 4096;

/** What it writes there. */
const SCRIBBLE_BYTES = 16;

/**
 * No timer is set shorter than this while nothing is overdue, so that fast workloads do not live on timers
 * alone.
 */
const TICK_MS = 4;

/** And none longer: very slow workloads look at the clock now and then. */
const TICK_MS_MAX = 60_000;

/** Work that could not be done in time is made up for as far back as this, then it is lost. */
const CATCH_UP_MS = 500;

/** Steps done in one go, before timers and I/O have their turn: some milliseconds' work. */
const BURST_STEPS_MAX = 8192;

/** Disk writes of one workload in flight at most: a guest's queue depth. */
const WRITES_IN_FLIGHT_MAX = 16;

/** A workload and how far it has come: all that it takes to go on elsewhere. Plain data. */
export interface WorkloadState {
  /** What it does. */
  readonly spec: WorkloadSpec;
  /** Where its random numbers go on. */
  readonly prng: PrngState;
  /** Steps done since it began: writes issued. */
  readonly steps: number;
  /** Steps that are due already, with fractions. */
  readonly due: number;
}

/** What a workload works on. */
export interface WorkloadHost {
  readonly environment: Environment;
  readonly regions: readonly MemoryRegion[];
  /** Size of a disk, undefined if there is none or it cannot be written. */
  diskBytes(id: string): number | undefined;
  writeMemory(region: number, offset: number, bytes: Uint8Array): void;
  writeDisk(id: string, offset: number, bytes: Uint8Array): Promise<void>;
}

/**
 * Does a workload's steps at its pace while it is started. What the steps are depends on nothing but the
 * state; when they are done depends on the clock. Late timers are made up for.
 */
export class WorkloadRunner {
  readonly #host: WorkloadHost;
  readonly #spec: WorkloadSpec;
  readonly #prng: Prng;
  readonly #step: () => void;
  readonly #stepsPerMs: number;
  #steps: number;
  #due: number;
  #throttle = 0;
  #inFlight = 0;
  /** When `#due` was brought up to date; undefined while stopped. */
  #accruedAt: number | undefined;
  #cancelTimer: CancelTimer | undefined;

  /** Stopped. Throws `invalid-argument` if the spec does not suit the host. */
  constructor(host: WorkloadHost, state: WorkloadState) {
    this.#host = host;
    this.#spec = state.spec;
    this.#prng = new Prng(state.prng);
    this.#steps = state.steps;
    this.#due = state.due;
    this.#step = this.#makeStep(state.spec);
    this.#stepsPerMs = stepsPerSecond(state.spec) / 1000;
    const paced = this.#stepsPerMs > 0 && Number.isFinite(this.#stepsPerMs);
    requireArgument(paced, `workload ${state.spec.kind}: its rate is not above 0`);
  }

  start(): void {
    if (this.#accruedAt !== undefined) return;
    this.#accruedAt = this.#host.environment.now();
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
    if (this.#accruedAt === undefined) return;
    this.#cancelTimer?.();
    this.#schedule();
  }

  /** Complete while it is stopped and none of its writes is in flight. */
  state(): WorkloadState {
    return { spec: this.#spec, prng: this.#prng.state(), steps: this.#steps, due: this.#due };
  }

  #accrue(): void {
    if (this.#accruedAt === undefined) return;
    const now = this.#host.environment.now();
    const steps = (now - this.#accruedAt) * this.#stepsPerMs * (1 - this.#throttle);
    this.#due = Math.min(this.#due + steps, 1 + CATCH_UP_MS * this.#stepsPerMs);
    this.#accruedAt = now;
  }

  #schedule(): void {
    const untilNext = (1 - this.#due) / (this.#stepsPerMs * (1 - this.#throttle));
    const overdue = this.#due >= 1 && this.#inFlight < WRITES_IN_FLIGHT_MAX;
    const delayMs = overdue ? 0 : Math.min(TICK_MS_MAX, Math.max(TICK_MS, untilNext));
    this.#cancelTimer = this.#host.environment.setTimer(delayMs, () => this.#tick());
  }

  #tick(): void {
    if (this.#accruedAt === undefined) return;
    this.#accrue();
    this.#work();
    this.#schedule();
  }

  /** Does what is due, as far as the queue depth allows. */
  #work(): void {
    for (let burst = 0; burst < BURST_STEPS_MAX && this.#due >= 1; burst += 1) {
      if (this.#inFlight >= WRITES_IN_FLIGHT_MAX) return;
      this.#due -= 1;
      this.#step();
      this.#steps += 1;
    }
  }

  #makeStep(spec: WorkloadSpec): () => void {
    switch (spec.kind) {
      case 'random-writer': {
        const places = this.#diskPlaces(spec.disk, spec.bytes, spec.hotBytes);
        return () => this.#writeDisk(spec.disk, this.#prng.below(places) * spec.bytes, spec.bytes);
      }
      case 'sequential-writer': {
        const places = this.#diskPlaces(spec.disk, spec.bytes);
        return () => this.#writeDisk(spec.disk, (this.#steps % places) * spec.bytes, spec.bytes);
      }
      case 'memory-dirtier':
        return this.#makeMemoryStep(spec.hotBytes);
      default:
        return unreachable(spec);
    }
  }

  #makeMemoryStep(hotBytes: number | undefined): () => void {
    const { regions } = this.#host;
    const total = regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
    const places = Math.floor(Math.min(total, hotBytes ?? total) / STEP_BYTES);
    requireArgument(places >= 1, 'workload memory-dirtier: not one page to write');
    const scribble = new Uint8Array(SCRIBBLE_BYTES);
    return () => {
      let offset = this.#prng.below(places) * STEP_BYTES;
      offset += this.#prng.below(STEP_BYTES / SCRIBBLE_BYTES) * SCRIBBLE_BYTES;
      let region = 0;
      for (const { sizeBytes } of regions) {
        if (offset < sizeBytes) break;
        offset -= sizeBytes;
        region += 1;
      }
      this.#prng.fill(scribble);
      this.#host.writeMemory(region, offset, scribble);
    };
  }

  /** In how many places of a disk a write of `bytes` can begin. */
  #diskPlaces(id: string, bytes: number, hotBytes = Number.POSITIVE_INFINITY): number {
    const diskBytes = this.#host.diskBytes(id);
    requireArgument(diskBytes !== undefined, `workload: there is no disk ${id} that it could write`);
    requireArgument(Number.isSafeInteger(bytes) && bytes >= 1, `workload: writes of ${bytes} bytes`);
    const places = Math.floor(Math.min(diskBytes, hotBytes) / bytes);
    requireArgument(places >= 1, `workload: a write of ${bytes} bytes does not fit on disk ${id}`);
    return places;
  }

  #writeDisk(id: string, offset: number, bytes: number): void {
    const content = new Uint8Array(bytes);
    this.#prng.fill(content);
    this.#inFlight += 1;
    // The guest's statistics count what fails; the workload goes on, as a program that retries elsewhere.
    const settled = () => {
      this.#inFlight -= 1;
      if (this.#accruedAt !== undefined) this.#work();
    };
    this.#host.writeDisk(id, offset, content).then(settled, settled);
  }
}

function stepsPerSecond(spec: WorkloadSpec): number {
  switch (spec.kind) {
    case 'random-writer':
      return spec.writesPerSecond;
    case 'sequential-writer':
      return spec.bytesPerSecond / spec.bytes;
    case 'memory-dirtier':
      return spec.bytesPerSecond / STEP_BYTES;
    default:
      return unreachable(spec);
  }
}
