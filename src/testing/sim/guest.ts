import { GuestGate } from '../../backends/memory/guest-gate.ts';
import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { createPrng, Prng, type PrngState } from '../../util/prng.ts';
import type { GuestDisk } from './guest-disk.ts';
import { GuestMeter, type GuestWindow, type MeterState } from './guest-meter.ts';
import type { SimulatedMemory } from './memory.ts';
import { checkWorkload, type RunnerState, type WorkloadGuest, WorkloadRunner } from './workload-runner.ts';
import type { SimulatedWorkload } from './workloads.ts';

/** What operations count under that were asked of the guest itself. */
const direct = 'direct';

export interface GuestParts {
  readonly environment: Environment;
  readonly seed: number;
  readonly memory: SimulatedMemory;
  readonly disks: readonly GuestDisk[];
  /** The guest shuts itself down. */
  powerOff(): void;
}

/** All of a guest that is neither memory nor disk, as plain data: it travels in the device state. */
export interface SavedGuest {
  /** The last generation that was given out. */
  readonly generation: number;
  readonly prng: PrngState;
  readonly workloads: readonly RunnerState[];
  readonly meter: MeterState;
}

/**
 * The guest of a simulated VM: does what it is told to, and its workloads, and notices how long things take.
 * Disk operations wait until it runs.
 */
export class SimulatedGuest {
  readonly #parts: GuestParts;
  readonly #gate = new GuestGate();
  #meter: GuestMeter;
  #prng: Prng;
  #runners: WorkloadRunner[] = [];
  #workloadsMade = 0;
  #generation = 1;
  #throttle = 0;
  #running = false;
  /** The generation of what is touched until the tick is over. */
  #tick: number | undefined;

  constructor(parts: GuestParts) {
    this.#parts = parts;
    this.#prng = createPrng(parts.seed);
    this.#meter = new GuestMeter(parts.environment.now());
  }

  /** How often it has written: the last generation that it gave out. */
  get generation(): number {
    return this.#generation;
  }

  /**
   * Writes whole blocks of a disk. Resolves when the guest is told. Rejects with `disk-write`,
   * `invalid-argument`, or, when it will never run here again, with why.
   */
  writeDisk(id: string, offset: number, length: number): Promise<void> {
    return this.#write(direct, id, offset, length, () => this.#nextGeneration());
  }

  /** As {@link SimulatedGuest.writeDisk}, of zeros; or a discard, after which the range reads as zeros. */
  zeroDisk(id: string, offset: number, length: number): Promise<void> {
    return this.#write(direct, id, offset, length, () => 0);
  }

  /** Reads, and rejects with `disk-read` also if it finds what no guest wrote. */
  readDisk(id: string, offset: number, length: number): Promise<void> {
    return this.#read(direct, id, offset, length);
  }

  flushDisk(id: string): Promise<void> {
    return this.#operate(direct, 0, id, (disk) => disk.medium.flushBy('guest'));
  }

  /**
   * Writes memory, all regions one behind the other; whole pages count as written. Throws `invalid-state`
   * unless it runs.
   */
  writeMemory(address: number, length: number): void {
    if (!this.#running) throw new MigrationError('invalid-state', 'the guest does not run');
    this.#parts.memory.write(address, length, this.#nextGeneration());
  }

  /** Shuts down. Nothing happens unless it runs. */
  powerOff(): void {
    this.#parts.powerOff();
  }

  /**
   * Takes up a workload, and follows it wherever it runs. Throws `invalid-argument` if it does not suit the
   * VM.
   */
  startWorkload(spec: SimulatedWorkload): void {
    const host = this.#workloadGuest();
    checkWorkload(spec, host);
    const name = `${spec.kind}-${this.#workloadsMade}`;
    const prng = this.#prng.fork().state();
    const runner = new WorkloadRunner(host, { name, spec, prng, due: 0, steps: 0 });
    runner.setThrottle(this.#throttle);
    this.#workloadsMade++;
    this.#runners.push(runner);
    if (this.#running) runner.start();
  }

  /** Does nothing by itself any more. What is in flight goes on. */
  stopWorkloads(): void {
    for (const runner of this.#runners.splice(0)) runner.stop();
  }

  /** Begins a new window of the statistics. */
  mark(label: string): void {
    this.#meter.mark(label, this.#parts.environment.now());
  }

  /** What it noticed, window by window, since it was made; it takes that along wherever it runs. */
  statistics(): readonly GuestWindow[] {
    return this.#meter.windows(this.#parts.environment.now());
  }

  // The hypervisor's side.

  /** Its CPUs run. */
  ran(): void {
    this.#running = true;
    this.#meter.ran(this.#parts.environment.now());
    for (const runner of this.#runners) runner.start();
    this.#gate.open();
  }

  /** Its CPUs stop; what is in flight goes on. */
  halted(): void {
    this.#running = false;
    this.#gate.close();
    this.#meter.halted(this.#parts.environment.now());
    for (const runner of this.#runners) runner.stop();
  }

  /** Resolves when nothing of it is in flight. */
  quiet(signal?: AbortSignal): Promise<void> {
    return this.#gate.quiet(signal);
  }

  /** It never runs here again. */
  end(error: MigrationError): void {
    this.#gate.end(error);
  }

  setThrottle(fraction: number): void {
    this.#throttle = fraction;
    for (const runner of this.#runners) runner.setThrottle(fraction);
  }

  /**
   * The state to be saved, and how to dirty `dirtyBytes` of memory, somewhere, on behalf of the devices that
   * are being saved; the state counts that as done.
   */
  save(dirtyBytes: number): { readonly state: SavedGuest; dirty(): void } {
    const { memory } = this.#parts;
    const length = Math.min(dirtyBytes, memory.totalBytes);
    const generation = length > 0 ? this.#nextGeneration() : 0;
    const address = length > 0 ? this.#prng.below(memory.totalBytes - length + 1) : 0;
    const state = {
      generation: this.#generation,
      prng: this.#prng.state(),
      workloads: this.#runners.map((runner) => runner.state()),
      meter: this.#meter.state(),
    };
    const dirty = () => {
      if (length > 0) memory.write(address, length, generation);
    };
    return { state, dirty };
  }

  load({ generation, prng, workloads, meter }: SavedGuest): void {
    this.#generation = generation;
    this.#prng = new Prng(prng);
    this.#runners = workloads.map((workload) => new WorkloadRunner(this.#workloadGuest(), workload));
    this.#workloadsMade = workloads.length;
    this.#meter = new GuestMeter(this.#parts.environment.now(), meter);
  }

  #nextGeneration(): number {
    this.#generation++;
    return this.#generation;
  }

  #workloadGuest(): WorkloadGuest {
    const { environment, memory, disks } = this.#parts;
    const next = () => this.#nextGeneration();
    return {
      environment,
      memoryBytes: memory.totalBytes,
      pageBytes: memory.regions[0]?.pageBytes ?? 4096,
      disk: (id) => disks.find(({ medium }) => medium.id === id)?.medium,
      // The statistics count what fails; the workload goes on, as a program that retries elsewhere.
      read: (name, id, offset, length) => this.#read(name, id, offset, length).catch(() => {}),
      write: (name, id, offset, length) => this.#write(name, id, offset, length, next).catch(() => {}),
      undo: (name, id, offset, length) => this.#write(name, id, offset, length, () => 1).catch(() => {}),
      discard: (name, id, offset, length) => this.#write(name, id, offset, length, () => 0).catch(() => {}),
      touch: (address, length) => {
        this.#tick ??= this.#nextGeneration();
        memory.write(address, length, this.#tick);
      },
      touched: (name, bytes) => {
        this.#tick = undefined;
        this.#meter.completed(name, environment.now(), 0, bytes);
      },
    };
  }

  #write(name: string, id: string, offset: number, length: number, generation: () => number): Promise<void> {
    return this.#operate(name, length, id, async (disk) => {
      const { blockBytes, sizeBytes, readOnly } = disk.medium;
      const end = offset + length;
      const whole = offset % blockBytes === 0 && (end % blockBytes === 0 || end === sizeBytes);
      if (!whole || length <= 0) throw new MigrationError('invalid-argument', 'guests write whole blocks');
      if (readOnly) throw new MigrationError('disk-write', `disk ${id} is read-only`);
      await disk.write(offset, length, generation());
    });
  }

  #read(name: string, id: string, offset: number, length: number): Promise<void> {
    return this.#operate(name, length, id, async ({ medium }) => {
      await medium.readBy('guest', offset, length);
      if (medium.space.hasBad(offset, length))
        throw new MigrationError('disk-read', 'the guest read garbage');
    });
  }

  #operate(
    name: string,
    bytes: number,
    id: string,
    operation: (disk: GuestDisk) => Promise<void>,
  ): Promise<void> {
    const { environment, disks } = this.#parts;
    return this.#gate.pass(async () => {
      const begun = environment.now();
      try {
        const disk = disks.find(({ medium }) => medium.id === id);
        if (disk === undefined) throw new MigrationError('disk-read', `there is no disk ${id} here`);
        await operation(disk);
      } catch (error) {
        this.#meter.failed(name);
        throw error;
      }
      this.#meter.completed(name, environment.now(), environment.now() - begun, bytes);
    });
  }
}
