/** The toy hypervisor as a backend: see docs/writing-a-backend.md, which goes through this file. */
import { join } from 'node:path';
import {
  type BlockDevice,
  type CallOptions,
  type Chunks,
  type DestinationVm,
  type DiskDescription,
  type Extent,
  type HypervisorBackend,
  type MemoryRegion,
  type MemorySink,
  type MemorySource,
  MigrationError,
  type PageBatch,
  type PageRange,
  type PageRun,
  type RunState,
  type SourceDisk,
  type SourceVm,
  type Tap,
  type TapHandler,
  type UnexpectedStop,
  type VmDescription,
  type WriteTimes,
} from 'longhaul';
import { pageBytes, type ToyDisk, ToyVm } from './toy-hypervisor.ts';

const machine = 'toy-1';
/** Names the encoding of the device state; another encoding gets another name. */
const deviceStateFormat = 'toy-registers/1';
/** A batch is 1 MiB at most. */
const batchPages = (1 << 20) / pageBytes;
const zeroPage = Buffer.alloc(pageBytes);

function regionsOf(vm: ToyVm): readonly MemoryRegion[] {
  return [{ name: 'ram', sizeBytes: vm.memory.length, pageBytes }];
}

function describe(vm: ToyVm): VmDescription {
  const disk = { id: 'disk0', sizeBytes: vm.disk.sizeBytes, blockBytes: pageBytes, readOnly: false };
  return {
    vmId: vm.id,
    name: vm.id,
    machine,
    cpus: 1,
    memory: regionsOf(vm),
    disks: [disk],
    deviceStateFormat,
  };
}

// ---- Both ends --------------------------------------------------------------------------------------------

/** What both ends can do with a disk. */
class ToyBlockDevice implements BlockDevice {
  readonly id: string;
  readonly sizeBytes: number;
  readonly blockBytes: number;
  readonly readOnly: boolean;
  protected readonly disk: ToyDisk;

  constructor(disk: ToyDisk, { id, sizeBytes, blockBytes, readOnly }: DiskDescription) {
    this.disk = disk;
    this.id = id;
    this.sizeBytes = sizeBytes;
    this.blockBytes = blockBytes;
    this.readOnly = readOnly;
  }

  read(offset: number, length: number): Promise<Chunks> {
    return this.#failingAs('disk-read', async () => [await this.disk.read(offset, length)]);
  }

  /** May say data where zeros are, never zeros where data is. A disk that knows nothing says this. */
  async extents(offset: number, length: number): Promise<readonly Extent[]> {
    return [{ offset, length, zero: false }];
  }

  flush(): Promise<void> {
    return this.#failingAs('disk-write', () => this.disk.file.datasync());
  }

  write(offset: number, content: Chunks): Promise<void> {
    return this.#failingAs('disk-write', async () => {
      await this.disk.file.writev([...content], offset);
    });
  }

  writeZeroes(offset: number, length: number): Promise<void> {
    return this.#failingAs('disk-write', async () => {
      for (let done = 0; done < length; done += 1 << 20) {
        const bytes = Math.min(length - done, 1 << 20);
        await this.disk.file.write(Buffer.alloc(bytes), 0, bytes, offset + done);
      }
    });
  }

  async discard(): Promise<void> {
    // It may read as anything afterwards: also as what was there.
  }

  async #failingAs<T>(code: 'disk-read' | 'disk-write', work: () => Promise<T>): Promise<T> {
    try {
      return await work();
    } catch (cause) {
      throw new MigrationError(code, `disk ${this.id}: ${cause}`, { cause });
    }
  }
}

// ---- Source -----------------------------------------------------------------------------------------------

/** A dirty log as rounds. */
class ToyMemory implements MemorySource {
  readonly regions: readonly MemoryRegion[];
  readonly keepsUnsentPages = true;
  readonly #vm: ToyVm;
  #open = false;

  constructor(vm: ToyVm) {
    this.#vm = vm;
    this.regions = regionsOf(vm);
  }

  async *round({ signal }: CallOptions = {}): AsyncGenerator<PageBatch, void, undefined> {
    if (this.#open) throw new MigrationError('invalid-state', 'a round is being read already');
    this.#open = true;
    const log = this.#vm.dirtyLog;
    if (!log.enabled) log.enable();
    const taken = log.fetchAndClear();
    let complete = false;
    try {
      for (let at = 0; at < taken.length; at += batchPages) {
        signal?.throwIfAborted();
        const runs = taken.slice(at, at + batchPages).map((page) => this.#copy(page));
        yield { runs, release: () => {} };
      }
      complete = true;
    } finally {
      // Ended early: nobody knows what of it was sent.
      if (!complete) for (const page of taken) log.mark(page);
      this.#open = false;
    }
  }

  dirtyBytes(): number {
    return this.#vm.dirtyLog.count * pageBytes;
  }

  /** For the audit: copies, as the guest would find them. */
  async read(ranges: readonly PageRange[]): Promise<readonly Chunks[]> {
    return ranges.map(({ offset, length }) => [
      Buffer.from(this.#vm.memory.subarray(offset, offset + length)),
    ]);
  }

  /** The audit found them to be others at the destination, whatever the log has said. */
  async offer(ranges: readonly PageRange[]): Promise<void> {
    for (const { offset, length } of ranges) {
      for (let at = offset; at < offset + length; at += pageBytes) this.#vm.dirtyLog.mark(at / pageBytes);
    }
  }

  async stop(): Promise<void> {
    this.#vm.dirtyLog.disable();
  }

  /**
   * The page as it is now, its mark cleared already: what the guest writes from here on is in the next round.
   */
  #copy(page: number): PageRun {
    const offset = page * pageBytes;
    const bytes = this.#vm.memory.subarray(offset, offset + pageBytes);
    const content = bytes.equals(zeroPage) ? 'zero' : [Buffer.from(bytes)];
    return { region: 0, offset, length: pageBytes, content };
  }
}

class ToySourceDisk extends ToyBlockDevice implements SourceDisk {
  readonly tapCapability = 'ordered';
  #tap: Tap | undefined;

  async tap(handler: TapHandler): Promise<Tap> {
    const { disk } = this;
    if (disk.filter !== undefined) throw new MigrationError('invalid-state', `disk ${this.id} has a tap`);
    let letGo = () => {};
    const removed = new Promise<void>((resolve) => {
      letGo = resolve;
    });
    disk.filter = {
      written: (offset, bytes) => {
        // Called before anything is awaited: the call is the write's place in the order.
        const content = [Buffer.from(bytes)];
        const handled = handler.write({ offset, length: bytes.byteLength, content, release: () => {} });
        return handled && Promise.race([handled, removed]);
      },
      failed: (offset, length) => handler.invalidate({ offset, length }),
    };
    this.#tap = {
      // The filter runs in the guest's way, so it has seen everything once the guest's I/O is finished:
      // stun() waits for that.
      finish: async () => {},
      remove: async () => {
        disk.filter = undefined;
        letGo();
      },
    };
    return this.#tap;
  }

  async track(): Promise<never> {
    throw new MigrationError('unsupported', 'the toy shows each write instead');
  }

  async writeTimes(): Promise<WriteTimes> {
    return { ...this.disk.times };
  }

  async removeTap(): Promise<void> {
    await this.#tap?.remove();
    this.#tap = undefined;
  }
}

class ToySource implements SourceVm {
  readonly description: VmDescription;
  readonly capabilities = { throttle: true, throttleAlone: true, measure: false, auditMemory: true } as const;
  readonly memory: ToyMemory;
  readonly disks: readonly ToySourceDisk[];
  readonly #vm: ToyVm;
  readonly #listeners = new Set<(stop: UnexpectedStop) => void>();
  /** Whether the guest ran when it was stunned; undefined while it is not. */
  #ranBefore: boolean | undefined;

  constructor(vm: ToyVm) {
    this.#vm = vm;
    this.description = describe(vm);
    this.memory = new ToyMemory(vm);
    this.disks = this.description.disks.map((disk) => new ToySourceDisk(vm.disk, disk));
    vm.onStop = (kind) => {
      // A stop of our own is no news.
      if (this.#ranBefore !== undefined) return;
      for (const listener of this.#listeners) listener({ kind, reason: `the guest was ${kind}` });
    };
  }

  runState(): RunState {
    return this.#vm.running ? 'running' : 'paused';
  }

  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  measure(): Promise<never> {
    // Its dirty log is the migration's alone.
    return Promise.reject(new MigrationError('unsupported', 'this guest cannot be measured'));
  }

  async setThrottle(fraction: number): Promise<void> {
    this.#vm.throttle = fraction;
  }

  async stun(): Promise<void> {
    this.#ranBefore = this.#vm.running;
    await this.#vm.pause();
  }

  async *saveDeviceState(): AsyncGenerator<Uint8Array, void, undefined> {
    yield Buffer.from(JSON.stringify(this.#vm.registers));
  }

  async seal(): Promise<void> {
    // A guest that lives in this process dies with it. Where it does not, this is what has to outlive us.
    this.#vm.locked = true;
  }

  async resume(): Promise<void> {
    this.#vm.locked = false;
    const ran = this.#ranBefore;
    this.#ranBefore = undefined;
    if (ran === true) this.#vm.run();
  }

  async release(): Promise<void> {
    await this.#vm.end();
  }

  async detach(): Promise<void> {
    this.#vm.throttle = 0;
    await this.memory.stop();
    for (const disk of this.disks) await disk.removeTap();
  }
}

/** A running VM as the source of a migration. */
export function toySource(vm: ToyVm): SourceVm {
  return new ToySource(vm);
}

// ---- Destination ------------------------------------------------------------------------------------------

class ToyDestination implements DestinationVm {
  readonly memory: MemorySink;
  readonly disks: readonly BlockDevice[];
  readonly capabilities = { refill: true, disksAlone: false, auditMemory: true };
  readonly #vm: ToyVm;
  readonly #onStart: () => void;
  #started = false;

  constructor(vm: ToyVm, { disks }: VmDescription, onStart: () => void) {
    this.#vm = vm;
    this.#onStart = onStart;
    this.disks = disks.map((disk) => new ToyBlockDevice(vm.disk, disk));
    this.memory = {
      regions: regionsOf(vm),
      write: async (runs) => this.#write(runs),
      read: async (ranges) =>
        ranges.map(({ offset, length }) => [Buffer.from(vm.memory.subarray(offset, offset + length))]),
    };
  }

  async loadDeviceState(state: Chunks): Promise<void> {
    try {
      Object.assign(this.#vm.registers, JSON.parse(Buffer.concat(state).toString()));
    } catch (cause) {
      throw new MigrationError('device-state', `the registers cannot be read: ${cause}`, { cause });
    }
  }

  /** The registers come again, and are replaced as a whole. */
  async refill(): Promise<void> {}

  async handOver(): Promise<never> {
    throw new MigrationError('unsupported', 'the toy takes whole VMs');
  }

  async start({ run }: { readonly run: boolean }): Promise<void> {
    this.#started = true;
    this.#onStart();
    // A guest with a network card is announced on its network here.
    if (run) this.#vm.run();
  }

  async discard(): Promise<void> {
    if (!this.#started) await this.#vm.remove();
  }

  #write(runs: readonly PageRun[]): void {
    for (const { offset, length, content } of runs) {
      if (content === 'zero') this.#vm.memory.fill(0, offset, offset + length);
      else Buffer.concat(content).copy(this.#vm.memory, offset);
    }
  }
}

/** The toy hypervisor as a destination. */
export interface ToyBackend extends HypervisorBackend {
  /** The VM that was started last. */
  readonly vm: ToyVm | undefined;
}

/** Takes VMs over; their disks become files in `directory`. */
export function createToyBackend(directory: string): ToyBackend {
  let started: ToyVm | undefined;
  return {
    name: 'toy',
    get vm() {
      return started;
    },
    async prepare(description, { memory } = {}) {
      if (memory === 'none') throw new MigrationError('unsupported', 'the toy takes whole VMs');
      const differences = differencesOf(description);
      if (differences.length > 0) {
        throw new MigrationError('incompatible', `the toy cannot take this VM: ${differences.join('; ')}`);
      }
      const [disk] = description.disks;
      const path = join(directory, `${encodeURIComponent(description.vmId)}.img`);
      const vm = await ToyVm.create({
        id: description.vmId,
        memoryBytes: description.memory[0]?.sizeBytes ?? 0,
        disk: { path, sizeBytes: disk?.sizeBytes ?? 0 },
      });
      return new ToyDestination(vm, description, () => {
        started = vm;
      });
    },
  };
}

/** Every difference, not only the first: an operator wants to fix them all at once. */
function differencesOf(asked: VmDescription): readonly string[] {
  const differences: string[] = [];
  const compare = (what: string, here: unknown, there: unknown) => {
    if (here !== there) differences.push(`${what} is ${there} at the source, ${here} here`);
  };
  compare('the machine', machine, asked.machine);
  compare('the device state format', deviceStateFormat, asked.deviceStateFormat);
  compare('the number of CPUs', 1, asked.cpus);
  compare('the number of memory regions', 1, asked.memory.length);
  compare('the page size', pageBytes, asked.memory[0]?.pageBytes);
  compare('the number of disks', 1, asked.disks.length);
  compare('the block size', pageBytes, asked.disks[0]?.blockBytes);
  return differences;
}
