import { Worker } from 'node:worker_threads';
import type { Measured } from '../core/prediction/estimate.ts';
import { MigrationError, messageOf, type Phase } from '../errors.ts';
import type { VmDescription } from '../interfaces/hypervisor.ts';
import type { Estimate, MigrationReport } from '../interfaces/migration.ts';
import type { OwnershipRegister } from '../interfaces/register.ts';
import { threadArguments } from '../util/thread-arguments.ts';
import type { Assignment, FromEngine, ToEngine } from './messages.ts';
import { pack, unpack } from './pack.ts';
import { answerCall } from './register-calls.ts';

/** What an {@link EngineThread} works with, and whom it tells. */
export interface EngineThreadParts {
  readonly assignment: Assignment;
  /** Called if the assignment says `asked`. */
  readonly register: OwnershipRegister | undefined;
  /** Must not throw. */
  readonly onOpened: (description: VmDescription) => void;
  /** Must not throw. */
  readonly onEvent: (event: string, args: readonly unknown[]) => void;
}

/** An engine's thread that came to its end without a report. */
export interface Death {
  /** Why, and who owns the VM now. */
  readonly error: MigrationError;
  /** What a report of it can say. */
  readonly known: Pick<MigrationReport, 'vmId' | 'epoch' | 'totalMs'>;
  /** The VM had been opened. */
  readonly opened: boolean;
  /** The guest may stand still because of the engine. */
  readonly stunned: boolean;
}

/** What an engine's thread came to that was to estimate. */
export type Estimated =
  | { readonly estimate: Estimate; readonly measured: Measured | undefined }
  | { readonly refusal: unknown };

/** The phases in which the guest is stunned, or may be. */
const stunnedIn: ReadonlySet<Phase> = new Set(['stun', 'verify', 'handover']);

/**
 * The thread that one migration runs in, from its start to its end, as the main thread sees it.
 *
 * Messages that it posted arrive before its end is known, so when it dies this knows whether it had come to
 * claim *given*: before that the source owns the VM, and again once *reclaimed* stands; in between the
 * destination's decision counts; and once it lets go of the VM the destination has it.
 */
export class EngineThread {
  readonly #worker: Worker;
  readonly #parts: EngineThreadParts;
  readonly #startMs = performance.now();
  #vm: VmDescription | undefined;
  #phase: Phase = 'idle';
  /** The attempt in which the VM is given, or may be. */
  #givenIn: number | undefined;
  #failure: unknown;
  #result: MigrationReport | Estimated | undefined;
  /** Resolves when nothing of the thread is left. Never rejects. */
  readonly ended: Promise<MigrationReport | Estimated | Death>;

  /** Starts it. Throws whatever Node does if it has no thread to give. */
  constructor(parts: EngineThreadParts) {
    this.#parts = parts;
    this.#worker = new Worker(new URL('./qemu-worker.js', import.meta.url), {
      workerData: parts.assignment,
      name: 'longhaul',
      ...threadArguments(),
    });
    this.#worker.on('message', (message: FromEngine) => this.#take(message));
    this.#worker.on('error', (error) => {
      this.#failure ??= error;
    });
    // What was to be said is lost, and may have been what all wait for.
    this.#worker.on('messageerror', (error) => {
      this.#failure ??= error;
      void this.#worker.terminate();
    });
    this.ended = new Promise((resolve) => {
      this.#worker.on('exit', (code) => resolve(this.#result ?? this.#died(code)));
    });
  }

  /** Does nothing once it has ended. */
  post(message: ToEngine): void {
    this.#worker.postMessage(message);
  }

  abort(reason: MigrationError): void {
    this.post({ type: 'abort', reason: pack(reason) });
  }

  #take(message: FromEngine): void {
    switch (message.type) {
      case 'opened':
        this.#vm = message.description;
        this.#parts.onOpened(message.description);
        break;
      case 'event':
        this.#onEvent(message.event, unpack(message.args) as readonly unknown[]);
        break;
      case 'giving':
        this.#givenIn = message.epoch;
        break;
      case 'reclaimed':
        this.#givenIn = undefined;
        break;
      case 'call':
        void this.#answer(message);
        break;
      case 'report':
        this.#over(unpack(message.report) as MigrationReport);
        break;
      case 'estimated':
        this.#over({ estimate: message.estimate, measured: message.measured });
        break;
      case 'refused':
        this.#over({ refusal: unpack(message.error) });
    }
  }

  #over(result: MigrationReport | Estimated): void {
    this.#result = result;
    // It has let go of everything; what a module of the embedder's may have left open goes with it.
    void this.#worker.terminate();
  }

  async #answer(call: Extract<FromEngine, { readonly type: 'call' }>): Promise<void> {
    if (this.#parts.register !== undefined) this.post(await answerCall(this.#parts.register, call));
  }

  #onEvent(event: string, args: readonly unknown[]): void {
    if (event === 'phase') this.#phase = args[0] as Phase;
    this.#parts.onEvent(event, args);
    if (event === 'progress') this.post({ type: 'seen' });
  }

  #died(exitCode: number): Death {
    const cause = this.#failure;
    const { vmId = this.#parts.assignment.vm.vmId ?? '' } = this.#vm ?? {};
    const why = cause === undefined ? `it ended with code ${exitCode}` : messageOf(cause);
    return {
      error: this.#lossOf(vmId, `the thread of the migration died: ${why}`),
      known: { vmId, epoch: this.#givenIn ?? 0, totalMs: performance.now() - this.#startMs },
      opened: this.#vm !== undefined,
      stunned: stunnedIn.has(this.#phase),
    };
  }

  #lossOf(vmId: string, message: string): MigrationError {
    const details = { phase: this.#phase, cause: this.#failure };
    if (this.#givenIn === undefined) return new MigrationError('internal', message, details);
    if (this.#phase === 'release') {
      return new MigrationError('hypervisor', `the destination has ${vmId}, and ${message}`, {
        ...details,
        owner: 'destination',
      });
    }
    const undecided = `attempt ${this.#givenIn} may have given ${vmId} away: settle it with recover()`;
    return new MigrationError('owner-undecided', `${message}; ${undecided}`, {
      ...details,
      owner: 'undecided',
      guest: 'paused',
    });
  }
}
