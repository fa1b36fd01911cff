import { requireArgument } from '../../backends/memory/arguments.ts';
import { type ErrorCode, MigrationError } from '../../errors.ts';
import type { Chunks } from '../../interfaces/content.ts';
import type { CancelTimer, Environment } from '../../interfaces/environment.ts';
import type {
  DiskDescription,
  GuestMeasurement,
  MeasureOptions,
  UnexpectedStop,
  VmDescription,
} from '../../interfaces/hypervisor.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import { ContentRing, FreshContent } from './content.ts';
import { SimulatedDisk, type SimulatedDiskOptions } from './disk.ts';
import { ProcessTie } from './engine-process.ts';
import { SimulatedGuest } from './guest.ts';
import { GuestDisk } from './guest-disk.ts';
import { SimulatedMemory } from './memory.ts';
import type { VmEventDetail, VmState } from './vm-events.ts';
import { type VmFault, VmFaultPlan, type VmFaultPoint } from './vm-faults.ts';
import type { VmCoreOptions } from './vm-options.ts';
import { decodeState, encodeState, type StateToken } from './vm-state.ts';

const stateChunkBytes = 64 << 10;

/**
 * A simulated VM on its host: what remains of it when the engine's process dies. The handles and the public
 * VM are views of it.
 */
export class VmCore {
  readonly options: VmCoreOptions;
  readonly environment: Environment;
  readonly description: VmDescription;
  readonly faults: VmFaultPlan;
  readonly memory: SimulatedMemory;
  readonly disks: readonly GuestDisk[];
  readonly guest: SimulatedGuest;
  readonly violations: string[] = [];
  /** The save that the destination loaded, or that was made here last. */
  token: StateToken | undefined;
  readonly #listeners = new Set<(stop: UnexpectedStop) => void>();
  /** Calls off what is to happen at a time. */
  readonly #clockFaults = new Set<CancelTimer>();
  #state: VmState;
  /** Where a resumed guest goes back to. */
  #before: 'running' | 'paused' = 'paused';
  #stunAttempt = {};
  #saved = false;
  #saves = 0;
  #throttle = 0;
  #started = false;
  #loadBegun = false;
  #loading = false;
  #tie: ProcessTie | undefined;

  constructor(options: VmCoreOptions) {
    this.options = options;
    this.environment = options.environment;
    this.description = options.description;
    this.#state = options.state;
    this.faults = new VmFaultPlan(this.environment, (fault) => this.emit({ kind: 'fault', fault }));
    for (const fault of options.faults ?? []) this.addFault(fault);
    const { check = 'full', ringBytes, description } = options;
    this.memory = new SimulatedMemory({
      vmId: description.vmId,
      regions: description.memory,
      check,
      faults: this.faults,
      keepsUnsentPages: options.keepsUnsentPages,
      content: (unitBytes) =>
        ringBytes === undefined ? new FreshContent(unitBytes) : new ContentRing(unitBytes, ringBytes),
    });
    this.disks = options.disks.map((disk) => this.#makeDisk(disk));
    this.guest = new SimulatedGuest({
      environment: this.environment,
      seed: options.seed,
      memory: this.memory,
      disks: this.disks,
      powerOff: () => this.powerOff(),
    });
  }

  get state(): VmState {
    return this.#state;
  }

  /** Whether an engine has it. */
  get attached(): boolean {
    return this.#tie !== undefined;
  }

  /** Whether a destination took possession of it here. */
  get started(): boolean {
    return this.#started;
  }

  get throttle(): number {
    return this.#throttle;
  }

  /** Whether the guest is stunned and its I/O finished. */
  get stunned(): boolean {
    return this.#state === 'stunned' || this.#state === 'sealed';
  }

  /** Its disks, with what is known of them now. */
  describeDisks(): readonly DiskDescription[] {
    return this.description.disks.map((disk) => {
      const medium = this.disks.find((one) => one.medium.id === disk.id)?.medium;
      return medium?.tellsAllocated === true ? { ...disk, allocatedBytes: medium.allocatedBytes } : disk;
    });
  }

  emit(detail: VmEventDetail): void {
    const { host, observe } = this.options;
    observe?.({ ...detail, host, vmId: this.description.vmId, atMs: this.environment.now() });
  }

  /** Notes that an engine broke its contract, and returns the refusal. */
  violation(message: string): MigrationError {
    this.violations.push(message);
    this.emit({ kind: 'violation', message });
    return new MigrationError('invalid-state', message);
  }

  addFault(fault: VmFault): void {
    if (fault.point !== 'clock') {
      this.faults.add(fault);
      return;
    }
    const delayMs = Math.max(0, (fault.fromMs ?? 0) - this.environment.now());
    const cancel = this.environment.setTimer(delayMs, () => {
      this.#clockFaults.delete(cancel);
      this.emit({ kind: 'fault', fault });
      this.strike(fault);
    });
    this.#clockFaults.add(cancel);
  }

  /** Nothing goes wrong any more that has not begun to. */
  clearFaults(): void {
    this.faults.clear();
    for (const cancel of this.#clockFaults) cancel();
    this.#clockFaults.clear();
  }

  /** Does what of a fault's effect concerns the whole VM. */
  strike(fault: VmFault | undefined): void {
    switch (fault?.effect) {
      case 'break-tap':
        for (const disk of this.disks) {
          if (fault.disk === undefined || fault.disk === disk.medium.id) disk.breakTap('the tap broke');
        }
        return;
      case 'power-off':
        this.powerOff();
        return;
      case 'die':
        this.die('the hypervisor died');
        return;
      default:
    }
  }

  /**
   * A step of the hypervisor's: its time, and the fault that meets it. Throws `code` if that one fails it.
   */
  async step(
    point: VmFaultPoint,
    ms: number | undefined,
    code: ErrorCode,
    signal?: AbortSignal,
  ): Promise<VmFault | undefined> {
    if (ms !== undefined && ms > 0) await delay(this.environment, ms, signal);
    const fault = await this.faults.meet(point, signal);
    this.strike(fault);
    if (fault?.effect === 'fail') throw new MigrationError(code, `${point} failed`);
    return fault;
  }

  // The operator's and the guest's own doing.

  run(): void {
    this.require('run', 'paused', 'running');
    if (this.#state === 'paused') this.#run();
  }

  /** Whoever migrates it is told. Resolves when the guest's I/O is finished. */
  async pause(): Promise<void> {
    this.require('pause', 'running', 'paused');
    if (this.#state === 'running') {
      this.#change('paused');
      this.#tell('paused', 'paused by the operator');
    }
    await this.guest.quiet();
  }

  /** The guest shuts down, if it runs. */
  powerOff(): void {
    if (this.#state !== 'running') return;
    this.#change('off');
    this.guest.end(this.#refusal('run'));
    this.#tell('shutdown', 'the guest powered off');
  }

  die(reason: string): void {
    if (this.#state === 'gone' || this.#state === 'discarded') return;
    const told = this.#state !== 'released';
    this.#change('gone');
    this.guest.end(this.#refusal('run'));
    if (told) this.#tell('gone', reason);
    this.memory.lose();
    for (const disk of this.disks) {
      disk.breakTap(reason);
      if (this.#owns(disk.medium)) disk.medium.lose();
    }
  }

  // The engine's process.

  attach(): ProcessTie {
    if (this.#tie !== undefined) {
      throw new MigrationError('invalid-state', `${this.description.vmId} has an engine already`);
    }
    this.#tie = new ProcessTie();
    this.emit({ kind: 'process', attached: true });
    return this.#tie;
  }

  /** The engine is done with the VM, and another may attach. */
  leave(tie: ProcessTie): void {
    if (this.#tie !== tie) return;
    this.#tie = undefined;
    this.emit({ kind: 'process', attached: false });
  }

  /**
   * The engine's process died: what it had set up goes, and a guest that it had stunned runs on, unless it
   * was sealed.
   */
  cutProcess(): void {
    const tie = this.#tie;
    if (tie === undefined) return;
    tie.cut();
    this.#listeners.clear();
    this.leave(tie);
    this.tidyUp();
    if (this.#state === 'stunning' || this.#state === 'stunned') this.#back();
  }

  /** Takes away whatever was set up around a VM that stays. */
  tidyUp(): void {
    this.#setThrottle(0);
    for (const disk of this.disks) disk.dropTap();
    this.memory.endRounds();
  }

  // The source's methods.

  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  async setThrottle(fraction: number): Promise<void> {
    requireArgument(fraction >= 0 && fraction <= 0.99, `a throttle of ${fraction} is not from 0 to 0.99`);
    if (fraction > 0) this.require('setThrottle', 'running', 'paused');
    await this.step('throttle', 0, 'hypervisor');
    this.#setThrottle(fraction);
  }

  /** What the guest writes in a while. */
  async measure({ durationMs, signal }: MeasureOptions): Promise<GuestMeasurement> {
    requireArgument(durationMs >= 50 && durationMs <= 60_000, `it cannot be looked at for ${durationMs} ms`);
    this.require('measure', 'running', 'paused');
    const written = () => this.disks.map((disk) => [disk.medium.id, disk.writtenBytes] as const);
    const [before, beganMs, dirtied] = [new Map(written()), this.environment.now(), this.memory.look()];
    try {
      await this.step('measure', durationMs, 'hypervisor', signal);
      this.require('measure', 'running', 'paused');
    } catch (error) {
      dirtied();
      throw error;
    }
    return {
      durationMs: this.environment.now() - beganMs,
      dirtiedBytes: dirtied(),
      writtenBytes: Object.fromEntries(written().map(([id, bytes]) => [id, bytes - (before.get(id) ?? 0)])),
      usedBytes: this.memory.usedBytes,
    };
  }

  async stun(signal: AbortSignal | undefined): Promise<void> {
    this.require('stun', 'running', 'paused');
    throwIfAborted(signal);
    const attempt = {};
    this.#stunAttempt = attempt;
    this.#before = this.#state === 'running' ? 'running' : 'paused';
    this.#change('stunning');
    const underWay = () => this.#stunAttempt === attempt && this.#state === 'stunning';
    try {
      await this.step('stun', this.options.timings?.stunMs, 'hypervisor', signal);
      await this.guest.quiet(signal);
    } catch (error) {
      if (underWay()) this.#back();
      throw error;
    }
    if (!underWay()) throw this.#refusal('stun');
    this.#saved = false;
    this.#change('stunned');
  }

  /** The device state, piece by piece; memory may be dirtied before the last one. */
  async *save(signal: AbortSignal | undefined): AsyncGenerator<Uint8Array, void, undefined> {
    this.require('saveDeviceState', 'stunned');
    const attempt = this.#stunAttempt;
    const fault = this.faults.take('save');
    this.strike(fault);
    const halfMs = ((this.options.timings?.saveMs ?? 0) + (fault?.delayMs ?? 0)) / 2;
    if (halfMs > 0) await delay(this.environment, halfMs, signal);
    if (fault?.effect === 'fail') throw new MigrationError('device-state', 'the state could not be saved');
    this.#saves++;
    const token = { vmId: this.description.vmId, host: this.options.host, save: this.#saves };
    const { state, dirty } = this.guest.save(fault?.dirtyBytes ?? this.options.saveDirtyBytes);
    const bytes = encodeState({ token, guest: state }, this.options.stateBytes);
    const last = Math.floor((bytes.byteLength - 1) / stateChunkBytes) * stateChunkBytes;
    for (let at = 0; at < bytes.byteLength; at += stateChunkBytes) {
      throwIfAborted(signal);
      if (at === last) {
        if (halfMs > 0) await delay(this.environment, halfMs, signal);
        if (attempt !== this.#stunAttempt || !this.stunned) throw this.#refusal('saveDeviceState');
        dirty();
      }
      yield bytes.subarray(at, at + stateChunkBytes);
    }
    if (attempt !== this.#stunAttempt || !this.stunned) return;
    this.#saved = true;
    this.token = token;
    this.emit({ kind: 'saved' });
  }

  async seal(): Promise<void> {
    this.require('seal', 'stunned');
    if (!this.#saved) throw this.violation('seal: the device state is not saved');
    const tie = this.#tie;
    await this.step('seal', this.options.timings?.sealMs, 'hypervisor');
    // A process that died meanwhile has broken no contract.
    if (tie?.dead === true) throw this.#refusal('seal');
    this.require('seal', 'stunned');
    this.#change('sealed');
  }

  async resume(): Promise<void> {
    if (this.#state === 'off') return;
    this.require('resume', 'running', 'paused', 'stunning', 'stunned', 'sealed');
    await this.step('resume', this.options.timings?.resumeMs, 'hypervisor');
    if (this.#state === 'stunning' || this.stunned) this.#back();
  }

  async release(): Promise<void> {
    if (this.#state === 'released') return;
    this.require('release', 'sealed');
    await this.step('release', 0, 'hypervisor');
    if (this.#state !== 'sealed') return;
    this.#change('released');
    this.guest.end(this.#refusal('run'));
  }

  // The destination's methods.

  async load(state: Chunks, signal: AbortSignal | undefined): Promise<void> {
    this.requireFilling('loadDeviceState');
    this.#loadBegun = true;
    this.#loading = true;
    try {
      await this.#load(state, signal);
    } finally {
      this.#loading = false;
    }
  }

  async #load(state: Chunks, signal: AbortSignal | undefined): Promise<void> {
    const tie = this.#tie;
    await this.step('load', this.options.timings?.loadMs, 'device-state', signal);
    if (tie?.dead === true) throw this.#refusal('loadDeviceState');
    this.require('loadDeviceState', 'prepared');
    try {
      const { token, guest } = decodeState(state);
      if (token.vmId !== this.description.vmId) throw new Error(`the state is that of ${token.vmId}`);
      this.guest.load(guest);
      this.token = token;
    } catch (cause) {
      throw new MigrationError('device-state', String(cause), { cause });
    }
    this.#change('loaded');
    this.emit({ kind: 'loaded' });
  }

  refill(): void {
    this.require('refill', 'prepared', 'loaded');
    if (!this.options.refills) throw this.violation('refill: it was said that this cannot be');
    if (this.#loading) throw this.violation('refill: the device state is being loaded');
    this.#loadBegun = false;
    if (this.#state === 'loaded') this.#change('prepared');
  }

  async start(run: boolean): Promise<void> {
    this.require('start', 'loaded');
    const tie = this.#tie;
    await this.step('start', this.options.timings?.startMs, 'hypervisor');
    if (tie?.dead === true) throw this.#refusal('start');
    this.require('start', 'loaded');
    this.#started = true;
    this.emit({ kind: 'started', run });
    if (run) this.#run();
    else this.#change('paused');
  }

  /** Its disks, all flushed, are the caller's. */
  async handOver(): Promise<void> {
    this.requireFilling('handOver');
    this.#loadBegun = true;
    const tie = this.#tie;
    await this.step('hand-over', this.options.timings?.startMs, 'hypervisor');
    if (tie?.dead === true) throw this.#refusal('handOver');
    this.require('handOver', 'prepared');
    this.#change('handed-over');
  }

  discard(): void {
    if (this.#state !== 'prepared' && this.#state !== 'loaded') return;
    this.#change('discarded');
    this.guest.end(this.#refusal('run'));
  }

  /**
   * {@link VmCore.require} of a prepared VM whose content is still to come: no device state was loaded, or
   * tried.
   */
  requireFilling(action: string): void {
    this.require(action, 'prepared');
    if (this.#loadBegun) throw this.violation(`${action}: the device state has come already`);
  }

  /**
   * Throws, and notes a violation, unless the VM is in one of the states. A VM that is lost is nobody's
   * violation.
   */
  require(action: string, ...states: readonly VmState[]): void {
    if (states.includes(this.#state)) return;
    if (this.#state === 'off' || this.#state === 'gone') throw this.#refusal(action);
    throw this.violation(`${action}: the VM is ${this.#state}`);
  }

  #refusal(action: string): MigrationError {
    const codes: Partial<Record<VmState, ErrorCode>> = { off: 'guest-stopped', gone: 'hypervisor' };
    const lost = this.#state === 'off' || this.#state === 'gone';
    const message = `${action}: the VM is ${this.#state}`;
    return new MigrationError(codes[this.#state] ?? 'invalid-state', message, lost ? { guest: 'lost' } : {});
  }

  #back(): void {
    this.#stunAttempt = {};
    this.#saved = false;
    if (this.#before === 'running') this.#run();
    else this.#change('paused');
  }

  #run(): void {
    this.#change('running');
    this.guest.ran();
  }

  #change(state: VmState): void {
    const before = this.#state;
    this.#state = state;
    if (before === 'running') this.guest.halted();
    this.emit({ kind: 'state', state, before });
  }

  #tell(kind: UnexpectedStop['kind'], reason: string): void {
    for (const listener of [...this.#listeners]) listener({ kind, reason });
  }

  #setThrottle(fraction: number): void {
    if (fraction === this.#throttle) return;
    this.#throttle = fraction;
    this.guest.setThrottle(fraction);
    this.emit({ kind: 'throttle', fraction });
  }

  #owns(medium: SimulatedDisk): boolean {
    return !this.options.disks.includes(medium);
  }

  #makeDisk(disk: SimulatedDiskOptions | SimulatedDisk): GuestDisk {
    const { environment, check = 'full', ringBytes } = this.options;
    const onFault = (fault: VmFault) => this.strike(fault);
    const host = { environment, vmId: this.description.vmId, faults: this.faults, onFault, check };
    const medium =
      disk instanceof SimulatedDisk
        ? disk
        : new SimulatedDisk(disk, ringBytes === undefined ? host : { ...host, ringBytes });
    const tapped = (set: boolean) => this.emit({ kind: 'tap', disk: medium.id, set });
    const { faults } = this;
    return new GuestDisk(medium, {
      now: () => environment.now(),
      faults,
      stunned: () => this.stunned,
      tapped,
      onFault,
    });
  }
}
