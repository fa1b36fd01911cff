import { type ErrorCode, MigrationError } from '../../errors.ts';
import type { UnexpectedStop } from '../../interfaces/hypervisor.ts';
import { throwIfAborted } from '../../util/promises.ts';
import type { GuestGate } from './guest-gate.ts';

/**
 * The states of a simulated VM. `running` and `paused` are the operator's; the next four belong to a
 * migration (see `SourceVm`); a VM that is `off`, `released` or `gone` never runs again.
 */
export type LifeState =
  | 'running'
  | 'paused'
  | 'stunning'
  | 'stunned'
  | 'sealed'
  | 'released'
  | 'off'
  | 'gone';

/** What starts and stops with the guest. */
export interface GuestMotor {
  /** The guest begins to run. */
  onRun(): void;
  /** The guest, which ran, stops. */
  onHalt(): void;
}

/**
 * Whether a VM runs, and which of its changes are allowed when. Refusals are `invalid-state` unless said
 * otherwise.
 */
export class VmLifecycle {
  readonly #gate: GuestGate;
  readonly #motor: GuestMotor;
  readonly #listeners = new Set<(stop: UnexpectedStop) => void>();
  #state: LifeState = 'paused';
  /** Where a resumed guest goes back to. */
  #before: 'running' | 'paused' = 'paused';
  #stateSaved = false;

  /** A VM that is paused. */
  constructor(gate: GuestGate, motor: GuestMotor) {
    this.#gate = gate;
    this.#motor = motor;
  }

  get state(): LifeState {
    return this.#state;
  }

  /** Whether the guest is stunned and its I/O finished. */
  get stunned(): boolean {
    return this.#state === 'stunned' || this.#state === 'sealed';
  }

  onUnexpectedStop(listener: (stop: UnexpectedStop) => void): () => void {
    this.#listeners.add(listener);
    return () => this.#listeners.delete(listener);
  }

  /** The operator runs a paused guest. Nothing happens if it runs. */
  run(): void {
    this.#require('run', 'paused', 'running');
    if (this.#state === 'paused') this.#run();
  }

  /** The operator pauses a running guest: resolves when its I/O is finished. Whoever migrates it is told. */
  async pause(): Promise<void> {
    this.#require('pause', 'running', 'paused');
    if (this.#state === 'running') {
      this.#halt('paused');
      this.#emit('paused', 'paused by the operator');
    }
    await this.#gate.quiet();
  }

  async stun(signal: AbortSignal | undefined): Promise<void> {
    this.#require('stun', 'running', 'paused');
    throwIfAborted(signal);
    this.#before = this.#state === 'running' ? 'running' : 'paused';
    this.#halt('stunning');
    try {
      await this.#gate.quiet(signal);
    } catch (error) {
      if (this.#state === 'stunning') this.#back();
      throw error;
    }
    this.#require('stun', 'stunning');
    this.#state = 'stunned';
  }

  /** Throws unless the device state may be saved now. */
  requireSavable(): void {
    this.#require('saveDeviceState', 'stunned');
  }

  /** The device state is saved, if the guest is still stunned. */
  saved(): void {
    if (this.#state === 'stunned') this.#stateSaved = true;
  }

  /** Throws unless the guest may be throttled now. */
  requireThrottleable(): void {
    this.#require('setThrottle', 'running', 'paused');
  }

  seal(): void {
    this.#require('seal', 'stunned');
    if (!this.#stateSaved) throw new MigrationError('invalid-state', 'seal: the device state is not saved');
    this.#state = 'sealed';
  }

  resume(): void {
    if (this.#state === 'off') return;
    this.#require('resume', 'running', 'paused', 'stunning', 'stunned', 'sealed');
    if (this.#state !== 'running' && this.#state !== 'paused') this.#back();
  }

  release(): void {
    if (this.#state === 'released') return;
    this.#require('release', 'sealed');
    this.#state = 'released';
    this.#gate.end(this.#refusal('run'));
  }

  /** The guest shuts down. */
  powerOff(): void {
    this.#halt('off');
    this.#gate.end(this.#refusal('run'));
    this.#emit('shutdown', 'the guest powered off');
  }

  /** The hypervisor dies. Returns false if it is dead already. */
  kill(): boolean {
    if (this.#state === 'gone') return false;
    const released = this.#state === 'released';
    this.#halt('gone');
    this.#gate.end(this.#refusal('run'));
    if (!released) this.#emit('gone', 'the VM was destroyed');
    return true;
  }

  #back(): void {
    this.#stateSaved = false;
    if (this.#before === 'running') this.#run();
    else this.#state = 'paused';
  }

  #run(): void {
    this.#state = 'running';
    this.#motor.onRun();
    this.#gate.open();
  }

  #halt(state: LifeState): void {
    const ran = this.#state === 'running';
    this.#state = state;
    this.#gate.close();
    if (ran) this.#motor.onHalt();
  }

  #emit(kind: UnexpectedStop['kind'], reason: string): void {
    for (const listener of [...this.#listeners]) listener({ kind, reason });
  }

  #require(action: string, ...states: readonly LifeState[]): void {
    if (!states.includes(this.#state)) throw this.#refusal(action);
  }

  #refusal(action: string): MigrationError {
    const codes: Partial<Record<LifeState, ErrorCode>> = { off: 'guest-stopped', gone: 'hypervisor' };
    const lost = this.#state === 'off' || this.#state === 'gone';
    const message = `${action}: the VM is ${this.#state}`;
    return new MigrationError(codes[this.#state] ?? 'invalid-state', message, lost ? { guest: 'lost' } : {});
  }
}
