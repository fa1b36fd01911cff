/**
 * A hypervisor that fits on two pages. It knows nothing of migration: it offers what hypervisors offer, a log
 * of dirty pages, a hook that sees disk writes, registers, a throttle; `toy-backend.ts` makes a backend of
 * that.
 *
 * Its guest is a program that can tell whether it is in one piece: it counts what it has done in its
 * registers, and each time also in some page of its memory or block of its disk. The counters add up, or
 * something of it was lost.
 */
import { type FileHandle, open, rm } from 'node:fs/promises';
import { setTimeout as delay } from 'node:timers/promises';

/** Page and block size in bytes. */
export const pageBytes = 4096;

/** All of the CPU's state. */
export interface Registers {
  /** How often the guest has counted in its memory. */
  steps: number;
  /** How often it has counted on its disk: writes of which it was told that they are done. */
  writes: number;
}

/** Which pages were written since they were last asked for, as a bitmap. */
export class DirtyLog {
  readonly #pages: number;
  #words: Uint32Array;
  #count = 0;
  #enabled = false;

  constructor(pages: number) {
    this.#pages = pages;
    this.#words = new Uint32Array(Math.ceil(pages / 32));
  }

  get enabled(): boolean {
    return this.#enabled;
  }

  /** How many pages are marked. */
  get count(): number {
    return this.#count;
  }

  /** Starts logging, with every page marked. */
  enable(): void {
    this.#enabled = true;
    for (let page = 0; page < this.#pages; page += 1) this.mark(page);
  }

  disable(): void {
    this.#enabled = false;
    this.fetchAndClear();
  }

  mark(page: number): void {
    if (!this.#enabled) return;
    const word = this.#words[page >>> 5] ?? 0;
    const marked = (word | (1 << (page & 31))) >>> 0;
    if (marked !== word) this.#count += 1;
    this.#words[page >>> 5] = marked;
  }

  /** The marked pages, in order; none is marked any more. */
  fetchAndClear(): readonly number[] {
    const pages: number[] = [];
    for (let page = 0; page < this.#pages; page += 1) {
      if (((this.#words[page >>> 5] ?? 0) & (1 << (page & 31))) !== 0) pages.push(page);
    }
    this.#words.fill(0);
    this.#count = 0;
    return pages;
  }
}

/** Sees the guest's writes to a disk. */
export interface WriteFilter {
  /** A write is on the medium; the guest is told when the promise resolves. */
  written(offset: number, bytes: Uint8Array): Promise<void> | void;
  /** A write failed, and may be on the medium in part. */
  failed(offset: number, length: number): void;
}

/** A disk in a file. */
export class ToyDisk {
  readonly sizeBytes: number;
  readonly file: FileHandle;
  filter: WriteFilter | undefined;
  /** How many writes the guest was told of, and how long it waited for them altogether, in ms. */
  readonly times = { writes: 0, totalMs: 0 };
  /** The last write that was issued: they go to the medium one by one. */
  #turn: Promise<unknown> = Promise.resolve();

  constructor(file: FileHandle, sizeBytes: number) {
    this.file = file;
    this.sizeBytes = sizeBytes;
  }

  async read(offset: number, length: number): Promise<Buffer> {
    const { buffer, bytesRead } = await this.file.read(Buffer.alloc(length), 0, length, offset);
    return buffer.subarray(0, bytesRead);
  }

  /** A write by the guest; resolves when the guest may be told. */
  async guestWrite(offset: number, bytes: Uint8Array): Promise<void> {
    const issued = performance.now();
    const onMedium = this.#turn.then(async () => {
      try {
        await this.file.write(bytes, 0, bytes.byteLength, offset);
      } catch (error) {
        this.filter?.failed(offset, bytes.byteLength);
        throw error;
      }
      // In an object: the next write has to wait until the filter was called, not until it lets the guest go
      // on.
      return { told: this.filter?.written(offset, bytes) };
    });
    this.#turn = onMedium.catch(() => {});
    await (await onMedium).told;
    this.times.writes += 1;
    this.times.totalMs += performance.now() - issued;
  }
}

/** What a {@link ToyVm} is made with. */
export interface ToyVmOptions {
  readonly id: string;
  /** Whole pages. */
  readonly memoryBytes: number;
  readonly disk: { readonly path: string; readonly sizeBytes: number };
}

/** A VM, paused at first. */
export class ToyVm {
  readonly id: string;
  readonly memory: Buffer;
  readonly disk: ToyDisk;
  readonly dirtyLog: DirtyLog;
  readonly registers: Registers = { steps: 0, writes: 0 };
  /** By what fraction the CPU is slowed. */
  throttle = 0;
  /** Whether `run()` is refused. */
  locked = false;
  /** Called when the guest stops, whoever stops it. */
  onStop: ((kind: 'paused' | 'shutdown') => void) | undefined;
  readonly #diskPath: string;
  #running = false;
  #off = false;
  /** Resolves when what the CPU is doing is done, its disk write included. */
  #cpu: Promise<void> = Promise.resolve();

  private constructor(options: ToyVmOptions, file: FileHandle) {
    this.id = options.id;
    this.memory = Buffer.alloc(options.memoryBytes);
    this.disk = new ToyDisk(file, options.disk.sizeBytes);
    this.dirtyLog = new DirtyLog(options.memoryBytes / pageBytes);
    this.#diskPath = options.disk.path;
  }

  static async create(options: ToyVmOptions): Promise<ToyVm> {
    const file = await open(options.disk.path, 'w+');
    await file.truncate(options.disk.sizeBytes);
    return new ToyVm(options, file);
  }

  get running(): boolean {
    return this.#running;
  }

  run(): void {
    if (this.locked || this.#off) throw new Error(`${this.id} may not run`);
    if (this.#running) return;
    this.#running = true;
    this.#cpu = this.#cpu.then(() => this.#execute());
  }

  /** Resolves when the CPU stands still, and all of its I/O is finished. */
  async pause(): Promise<void> {
    if (this.#running) {
      this.#running = false;
      this.onStop?.('paused');
    }
    await this.#cpu;
  }

  /** Ends the VM for good; its disk's file stays. Idempotent. */
  async end(): Promise<void> {
    const ended = this.#off;
    this.#off = true;
    this.#running = false;
    await this.#cpu;
    if (!ended) await this.disk.file.close();
  }

  /** As {@link ToyVm.end}, and removes the file. */
  async remove(): Promise<void> {
    await this.end();
    await rm(this.#diskPath, { force: true });
  }

  /** Whether the paused guest is in one piece: its counters add up to what its registers say. */
  async check(): Promise<boolean> {
    let [steps, writes] = [0, 0];
    for (let at = 0; at < this.memory.length; at += pageBytes) steps += this.memory.readUInt32LE(at);
    for (let at = 0; at < this.disk.sizeBytes; at += pageBytes) {
      writes += (await this.disk.read(at, pageBytes)).readUInt32LE(0);
    }
    return steps === this.registers.steps && writes === this.registers.writes;
  }

  async #execute(): Promise<void> {
    while (this.#running) {
      const steps = Math.ceil(4 * (1 - this.throttle));
      for (let step = 0; step < steps; step += 1) this.#countInMemory();
      await this.#countOnDisk();
      await delay(2);
    }
  }

  #countInMemory(): void {
    const page = scattered(this.registers.steps, this.memory.length / pageBytes);
    this.memory.writeUInt32LE(this.memory.readUInt32LE(page * pageBytes) + 1, page * pageBytes);
    this.dirtyLog.mark(page);
    this.registers.steps += 1;
  }

  async #countOnDisk(): Promise<void> {
    const offset = scattered(this.registers.writes, this.disk.sizeBytes / pageBytes) * pageBytes;
    const block = await this.disk.read(offset, pageBytes);
    block.writeUInt32LE(block.readUInt32LE(0) + 1, 0);
    await this.disk.guestWrite(offset, block);
    this.registers.writes += 1;
  }
}

/** Where the guest counts next: all over the place, and the same each time. */
function scattered(count: number, places: number): number {
  return (Math.imul(count + 1, 0x9e3779b1) >>> 8) % places;
}
