import { resolve as resolvePath } from 'node:path';
import { openQemuSource, type QemuSourceOptions } from '../backends/qemu/index.ts';
import { secretOf, Ticket } from '../channel/ticket.ts';
import { resolvePolicy } from '../core/policy.ts';
import { checkMeasuringTime, type Measured } from '../core/prediction/estimate.ts';
import type { SourceMigration } from '../core/source.ts';
import { asMigrationError, type GuestState, MigrationError } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import type { VmDescription } from '../interfaces/hypervisor.ts';
import type {
  Estimate,
  EstimateOptions,
  MigrationEvents,
  MigrationPolicy,
  MigrationReport,
} from '../interfaces/migration.ts';
import type { OwnershipRegister } from '../interfaces/register.ts';
import { fileRegister } from '../registers/index.ts';
import { createEmitter } from '../util/emitter.ts';
import { abortError, throwIfAborted } from '../util/promises.ts';
import { usualNiceness } from '../util/thread-priority.ts';
import { type Death, EngineThread, type Estimated } from './engine-thread.ts';
import type { Assignment, Order, Task } from './messages.ts';
import { ownReport } from './own-report.ts';
import {
  checkTransport,
  type WorkerModule,
  type WorkerRegister,
  type WorkerTransport,
} from './plug-points.ts';
import { checkYielding, stopYielding, type YieldingThreads } from './yield-to-guests.ts';

/**
 * What {@link createQemuSource} needs: which VM, as {@link openQemuSource} takes it, and the rest of a
 * source's options as plain data.
 */
export interface QemuMigrationOptions extends Omit<QemuSourceOptions, 'signal' | 'recovery'> {
  /** How to reach the destination. Made in the engine's thread, and closed there at the end. */
  readonly transport: WorkerTransport;
  /**
   * Where this end claims ownership: a register of any kind, which stays in this thread and is called here,
   * or one that is made in the engine's thread. The guest stands still while *given* is claimed, and a claim
   * of a register that is here waits until this thread is free.
   */
  readonly register: OwnershipRegister | WorkerRegister;
  /** This migration's ticket, which the destination has too. Default: none. */
  readonly ticket?: Ticket | string | undefined;
  /** How it is to go. Every setting has a default. */
  readonly policy?: MigrationPolicy | undefined;
  /**
   * Which threads yield to guests while it copies, see `yieldToGuests`: `own`, the engine's, or, where this process does nothing
   * else, `all` that it has when the engine's begins. Default: `own`.
   */
  readonly yielding?: YieldingThreads | undefined;
  /** Told once what the VM is, before anything of it is sent. What it throws is ignored. */
  readonly onOpened?: ((vm: VmDescription) => void) | undefined;
}

/**
 * The source's end of one migration of a running QEMU's VM, in a thread of its own: taps, mirror and channel
 * do not wait for this thread, whatever keeps it busy. It is what `createSource` makes of an
 * {@link openQemuSource}, but that `run()`, `rehearse()` and `estimate()` open the VM and let go of it: what that would
 * reject with is in the report, and what `estimate()` rejects with. Events come a little later than they happen, and of `progress` only the newest if
 * this thread is busy. When `run()` resolves the thread has ended.
 *
 * Should the thread die (out of memory, or a module of the embedder's that throws or exits), the report says
 * who owns the VM: before *given* is claimed the source (`internal`), and the guest runs on, with nothing of
 * ours around it; after that nobody knows (`owner-undecided`), and `recover()` settles it, unless the VM had
 * been claimed back (*reclaimed*). All figures of such a report are 0 but `totalMs`.
 *
 * `run()` has no limit of its own for a module of the embedder's: one that never comes to an end keeps it
 * from resolving, unless one of the policy's limits covers what hangs. None covers a factory, or a module that
 * blocks the engine's thread; the signal does not help then either.
 *
 * Throws `invalid-argument` for a policy out of its ranges, a ticket that is none, a transport or a register
 * that could not be made, or options that cannot be copied to another thread; `unsupported` for a transport
 * that cannot open connections. Nothing has been touched then.
 */
export function createQemuSource(options: QemuMigrationOptions): SourceMigration {
  return new QemuSource(options);
}

/** What a thread came to. */
type ThreadEnd = MigrationReport | Estimated | Death;

class QemuSource implements SourceMigration {
  readonly #order: Order;
  readonly #register: OwnershipRegister | undefined;
  readonly #onOpened: (vm: VmDescription) => void;
  readonly #events = createEmitter<MigrationEvents>();
  /** Those that are told here. Of the phase this has to know in any case. */
  readonly #wanted = new Set<string>(['phase']);
  #thread: EngineThread | undefined;
  #started = false;
  #estimating = false;
  /** What the VM is. */
  #told = false;
  #measured: Measured | undefined;

  constructor(options: QemuMigrationOptions) {
    const { transport, register, ticket, policy, yielding, onOpened = () => {}, ...vm } = options;
    resolvePolicy(policy);
    secretOf(ticket);
    checkYielding(yielding);
    checkTransport(transport);
    const own = 'claim' in register ? register : undefined;
    this.#register = own;
    this.#onOpened = onOpened;
    this.#order = copyOf({
      vm,
      transport: 'module' in transport ? withText(transport) : transport,
      register: 'claim' in register ? 'asked' : placed(register),
      ticket: ticket instanceof Ticket ? ticket.reveal() : ticket,
      policy,
      yielding,
    });
  }

  on<E extends keyof MigrationEvents>(event: E, listener: MigrationEvents[E]): this {
    this.#events.on(event, listener);
    if (!this.#wanted.has(event)) this.#thread?.post({ type: 'listen', event });
    this.#wanted.add(event);
    return this;
  }

  off<E extends keyof MigrationEvents>(event: E, listener: MigrationEvents[E]): this {
    this.#events.off(event, listener);
    return this;
  }

  run(options: CallOptions = {}): Promise<MigrationReport> {
    return this.#once('run', options);
  }

  rehearse(options: CallOptions = {}): Promise<MigrationReport> {
    return this.#once('rehearse', options);
  }

  async estimate({ durationMs, signal }: EstimateOptions = {}): Promise<Estimate> {
    if (durationMs !== undefined) checkMeasuringTime(durationMs);
    throwIfAborted(signal);
    if (this.#started || this.#estimating) {
      throw new MigrationError('invalid-state', 'this VM is being migrated, or was, or is looked at already');
    }
    this.#estimating = true;
    try {
      const end = await this.#inThread('estimate', signal, { durationMs });
      if ('estimate' in end) {
        this.#measured = end.measured;
        return Object.freeze(end.estimate);
      }
      if ('refusal' in end) throw end.refusal;
      throw 'outcome' in end ? end.error : (await this.#afterDeath(end)).error;
    } finally {
      this.#estimating = false;
    }
  }

  async #once(task: Task, { signal }: CallOptions): Promise<MigrationReport> {
    if (this.#estimating)
      throw new MigrationError('invalid-state', 'the VM is being looked at for an estimate');
    if (this.#started) throw new MigrationError('invalid-state', 'it was run before; make a new migration');
    this.#started = true;
    return Object.freeze(await this.#report(task, signal));
  }

  async #report(task: Task, signal: AbortSignal | undefined): Promise<MigrationReport> {
    const { vmId = '' } = this.#order.vm;
    if (signal?.aborted) return ownReport(abortError(signal), { vmId });
    try {
      const end = await this.#inThread(task, signal, { measured: this.#measured });
      if ('outcome' in end) return end;
      if ('known' in end) return await this.#afterDeath(end);
      throw new MigrationError('internal', 'a migration came to an estimate');
    } catch (error) {
      return ownReport(asMigrationError(error, 'internal'), { vmId });
    }
  }

  /** Rejects with `internal` if there is no thread to be had. */
  async #inThread(
    task: Task,
    signal: AbortSignal | undefined,
    more: Partial<Assignment>,
  ): Promise<ThreadEnd> {
    let thread: EngineThread;
    try {
      thread = this.#start(task, more);
    } catch (error) {
      throw asMigrationError(error, 'internal', 'no thread could be started');
    }
    const onAbort = () => thread.abort(abortError(signal as AbortSignal));
    signal?.addEventListener('abort', onAbort, { once: true });
    try {
      return await thread.ended;
    } finally {
      signal?.removeEventListener('abort', onAbort);
    }
  }

  #start(task: Task, more: Partial<Assignment>): EngineThread {
    this.#thread = new EngineThread({
      assignment: {
        ...this.#order,
        ...more,
        task,
        events: [...this.#wanted],
        usualNiceness: usualNiceness(),
      },
      register: this.#register,
      onOpened: (vm) => this.#opened(vm),
      onEvent: (event, args) => this.#emit(event, args),
    });
    return this.#thread;
  }

  #opened(vm: VmDescription): void {
    if (this.#told) return;
    this.#told = true;
    quietly(() => this.#onOpened(vm));
  }

  #emit(event: string, args: readonly unknown[]): void {
    for (const listener of this.#events.listeners(event as keyof MigrationEvents)) {
      quietly(() => (listener as (...args: readonly unknown[]) => void)(...args));
    }
  }

  /** The VM is the source's, or it is not ours any more to do something about. */
  async #afterDeath({ error, known, opened, stunned }: Death): Promise<MigrationReport> {
    if (this.#order.yielding === 'all') stopYielding();
    const ours = error.owner === 'source' && opened;
    const guest = ours ? await this.#restore(stunned).catch((): GuestState => 'unknown') : error.guest;
    this.#emit('phase', ['done']);
    return ownReport(error.with({ guest }), known);
  }

  /**
   * QEMU has run the guest on by itself, unless its migration was complete already; what is left in it is
   * taken away, and a guest that stands still for a copy of its disks is run on, as it is opened.
   */
  async #restore(stunned: boolean): Promise<GuestState> {
    const vm = await openQemuSource({ ...this.#order.vm, recovery: true });
    try {
      if (stunned) await vm.resume();
      return vm.runState();
    } finally {
      await vm.detach();
    }
  }
}

/** What a listener throws is the listener's. */
function quietly(tell: () => void): void {
  try {
    tell();
  } catch {
    // See above.
  }
}

/** The same, with nothing in it that cannot be copied. */
function withText(chosen: WorkerModule): WorkerModule {
  return { ...chosen, module: String(chosen.module) };
}

/** Throws as {@link fileRegister} does. */
function placed(register: WorkerRegister): WorkerRegister {
  if ('module' in register) return withText(register);
  fileRegister(register.directory);
  return { directory: resolvePath(register.directory) };
}

function copyOf(order: Order): Order {
  try {
    return structuredClone(order);
  } catch (error) {
    throw asMigrationError(error, 'invalid-argument', 'the options cannot be copied to another thread');
  }
}
