/**
 * One switchover at the source, from the stun to READY, or, in one flight, until the VM is given.
 *
 * ```
 *   stun ── last pages, mirrored writes, device state ── FINAL ──────► verify ──► READY
 *    │                                                 (seal, claim)    │
 *    └── too long, not saved, not loaded: the scope is aborted ─────────┘
 * ```
 *
 * It has a scope of its own, which ends when the migration does, and may end before: a switchover that failed is not a migration that
 * failed. Whoever began it resumes the guest then, and may begin another one once everything of this one has ended.
 */
import type { Channel } from '../channel/channel.ts';
import type { SendStream } from '../channel/send-stream.ts';
import { asMigrationError, type ErrorCode, MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { SourceVm } from '../interfaces/hypervisor.ts';
import { onAbort } from '../util/on-abort.ts';
import { raceAbort, throwIfAborted, withTimeout } from '../util/promises.ts';
import type { StreamEnd } from '../wire/messages.ts';
import type { AuditSender } from './audit/audit-sender.ts';
import { Stopwatch } from './downtime.ts';
import type { MemorySender } from './memory/memory-sender.ts';
import { peerFailed } from './peer-failed.ts';
import type { StateSender } from './state-sender.ts';
import type { DiskSender } from './storage/disk-sender.ts';

export interface SwitchoverOptions {
  /** Which one, 1 and up. */
  readonly attempt: number;
  readonly vm: SourceVm;
  /** There is neither memory nor device state to send. */
  readonly disksAlone: boolean;
  readonly state: StateSender;
  readonly memory: MemorySender;
  readonly disks: readonly DiskSender[];
  /** Of everything that is sent: FINAL says where each ends. */
  readonly streams: readonly SendStream[];
  readonly channel: Channel;
  readonly audit: AuditSender;
  readonly environment: Environment;
  readonly stunMsMax: number;
  /** The guest stands still since then, on the environment's clock. Called again if that turns out to be later. */
  readonly onStunned: (sinceMs: number) => void;
  /** The migration's. */
  readonly signal: AbortSignal;
}

/** What another switchover would not mend. */
const lasting: ReadonlySet<ErrorCode> = new Set(['tap-gap', 'guest-stopped', 'internal']);
/** A plug point that was told to stop does so at once; the guest stands still while one is waited for. */
const settleMsMax = 1000;

/** See the top of this file. */
export class Switchover {
  readonly attempt: number;
  /** Whether the guest ran then. */
  readonly wasRunning: boolean;
  #watch: Stopwatch;
  /** When the stun began. */
  readonly #startMs: number;
  readonly #options: SwitchoverOptions;
  readonly #scope = new AbortController();
  readonly #begun: Promise<unknown>[] = [];

  constructor(options: SwitchoverOptions) {
    this.#options = options;
    this.attempt = options.attempt;
    this.#startMs = options.environment.now();
    this.#watch = this.#stunnedNow();
    this.wasRunning = options.vm.runState() === 'running';
    onAbort(options.signal, () => this.#fail(options.signal.reason));
  }

  /** Where the time goes, from when the guest stands still on. */
  get watch(): Stopwatch {
    return this.#watch;
  }

  #stunnedNow(): Stopwatch {
    const nowMs = this.#options.environment.now();
    this.#options.onStunned(nowMs);
    return new Stopwatch(this.#options.environment, nowMs);
  }

  /** Pauses the guest and sends what is left: the last pages, the mirror's rest and the device state. What is missing then is FINAL. */
  stun(): Promise<void> {
    return this.within(async (signal) => {
      const { vm, disks, disksAlone } = this.#options;
      let told = false;
      const onStopping = () => {
        if (told || signal.aborted) return;
        told = true;
        this.#watch = this.#stunnedNow();
      };
      await vm.stun({ signal, memory: disksAlone ? 'none' : 'copy', onStopping });
      told = true;
      throwIfAborted(signal);
      this.watch.lap('quiesce');
      const finished = Promise.all(disks.map((disk) => this.#begin(disk.finish({ signal }), 'tap-gap')));
      finished.catch(() => {});
      if (!disksAlone) await this.#sendLastRoundsAndState(signal);
      await finished;
      this.watch.lap('mirror');
    });
  }

  /** Says where everything ends; and, with `given`, that the VM is the destination's as that attempt, if it has all of it. Behind the last of the data, in one flight. */
  sendFinal(given?: number): void {
    const { disks, channel, state, streams, attempt } = this.#options;
    channel.send({
      type: 'final',
      attempt,
      streams: streams.map(({ id, last, digest }): StreamEnd => ({ stream: id, last, digest })),
      stateBytes: state.bytes,
      unchangedBytes: disks.reduce((sum, disk) => sum + disk.unchangedBytes, 0),
      run: this.wasRunning,
      ...(given === undefined ? {} : { given }),
    });
  }

  /** Says what of memory and disks is here, as the hypervisor has it. All is sent; FINAL may follow, or have gone before. */
  audit(): Promise<void> {
    const { audit, attempt } = this.#options;
    return this.within((signal) => audit.send({ attempt, signal }));
  }

  /** The destination has applied, checked, flushed and loaded all of it. */
  verify(): Promise<void> {
    return this.within(async (signal) => {
      const { mailbox } = this.#options.channel;
      for (;;) {
        const answer = await mailbox.takeUntil(signal, 'ready', 'notReady');
        // That of an earlier one may come late.
        if (answer.attempt !== this.attempt) continue;
        if (answer.type === 'ready' || answer.code === 'audit-mismatch') await this.#options.audit.answered();
        if (answer.type === 'ready') {
          this.watch.lapOfPeer(answer.durations ?? {});
          return;
        }
        throw peerFailed(answer.code, answer.reason);
      }
    });
  }

  /** From stun to READY there is a limit; past it the source takes back. Rejects with the first reason for which the switchover failed. */
  async within<T>(work: (signal: AbortSignal) => Promise<T>): Promise<T> {
    const { environment, stunMsMax } = this.#options;
    const { signal } = this.#scope;
    const elapsedMs = environment.now() - this.#startMs;
    const cancel = environment.setTimer(Math.max(0, stunMsMax - elapsedMs), () => {
      this.#fail(new MigrationError('stun-timeout', `from stun to READY took more than ${stunMsMax} ms`));
    });
    try {
      throwIfAborted(signal);
      const working = (async () => work(signal))();
      const result = await raceAbort(this.#begin(working, 'hypervisor'), signal);
      throwIfAborted(signal);
      return result;
    } catch {
      throw signal.reason;
    } finally {
      cancel();
    }
  }

  /** Whether another one may do better than this one, which failed with `error`: then all that it began has ended. */
  async mayBeFollowed(error: MigrationError): Promise<boolean> {
    if (lasting.has(error.code)) return false;
    // What was sent again, and differs again, would do so once more.
    if (error.code === 'audit-mismatch' && this.#options.audit.mismatches > 1) return false;
    // Such a disk is copied from the beginning each time.
    if (error.code === 'stun-timeout' && this.#options.disks.some((disk) => disk.isUnseen)) return false;
    const late = () => new MigrationError('timeout', 'a plug point does not stop');
    const settled = Promise.allSettled(this.#begun);
    return withTimeout(this.#options.environment, settleMsMax, settled, late).then(
      () => true,
      () => false,
    );
  }

  /** Saving state can dirty memory, so rounds go on until one that began after the state was complete is empty. */
  async #sendLastRoundsAndState(signal: AbortSignal): Promise<void> {
    const { vm, state, memory } = this.#options;
    let saved = false;
    const saving = this.#begin(
      state.send(vm.saveDeviceState({ signal }), { signal }).then(() => {
        saved = true;
      }),
      'device-state',
    );
    for (;;) {
      const complete = saved;
      const bytes = await memory.sendRound({ signal });
      this.watch.lap('lastRounds');
      if (bytes > 0) continue;
      if (complete) return;
      await saving;
      this.watch.lap('state');
    }
  }

  /** What fails of it fails the switchover. */
  #begin<T>(work: Promise<T>, code: ErrorCode): Promise<T> {
    this.#begun.push(work);
    work.catch((error) => this.#fail(asMigrationError(error, code)));
    return work;
  }

  /** The first reason counts. */
  #fail(error: MigrationError): void {
    this.#scope.abort(error);
  }
}
