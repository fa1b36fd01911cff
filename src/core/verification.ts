import type { ReceiveStream } from '../channel/receive-stream.ts';
import { asMigrationError, MigrationError } from '../errors.ts';
import type { DestinationVm } from '../interfaces/hypervisor.ts';
import { onAbort } from '../util/on-abort.ts';
import { raceAbort, throwIfAborted } from '../util/promises.ts';
import { firstDiskStream, type MessageOf, memoryStream, stateStream } from '../wire/messages.ts';
import type { ApplyQueue } from './apply-queue.ts';
import type { AuditChecker } from './audit/audit-checker.ts';
import type { Stopwatch } from './downtime.ts';
import type { StateReceiver } from './state-receiver.ts';
import type { DiskReceiver } from './storage/disk-receiver.ts';

export interface VerificationOptions {
  readonly vm: DestinationVm;
  /** There is no device state to load. */
  readonly disksAlone: boolean;
  readonly state: StateReceiver;
  readonly memory: ApplyQueue;
  readonly disks: readonly DiskReceiver[];
  /** By their ids: all that there are. */
  readonly streams: ReadonlyMap<number, ReceiveStream>;
  /** Compares what is here with what the source says. */
  readonly audit: AuditChecker;
  /** Where the time goes. */
  readonly watch: Stopwatch;
  /** The migration's. */
  readonly signal: AbortSignal;
}

/**
 * What the destination does with FINAL: complete is what it names, applied; nothing follows from its arrival. Then check, flush, load.
 *
 * What is not as FINAL says stays so: the sums are over all that was ever sent. What goes wrong in loading may go better another time, and what an
 * audit finds is sent again.
 */
export class Verification {
  readonly #options: VerificationOptions;
  readonly #scope = new AbortController();
  #checking: Promise<void> | undefined;
  #loading: Promise<void> | undefined;
  #loadFailed = false;
  #hasAll = false;

  constructor(options: VerificationOptions) {
    this.#options = options;
    onAbort(options.signal, () => this.#scope.abort(options.signal.reason));
  }

  /** Whether everything that FINAL names has arrived, and is in place. */
  get hasAll(): boolean {
    return this.#hasAll;
  }

  /** Whether the VM has begun to load the state: then it takes no more content, unless it can be refilled. */
  get loadBegun(): boolean {
    return this.#loading !== undefined;
  }

  /** Whether it was the loading that failed, and nothing else. */
  get loadFailed(): boolean {
    return this.#loadFailed;
  }

  /** Resolves when all of it is applied, checked, flushed and loaded. */
  async run(final: MessageOf<'final'>): Promise<void> {
    const { vm, disksAlone, state, memory, disks, streams, audit, watch } = this.#options;
    const { signal } = this.#scope;
    const ends = new Map(final.streams.map((end) => [end.stream, end]));
    if (ends.size !== streams.size || [...streams.keys()].some((id) => !ends.has(id))) {
      throw new MigrationError('protocol', 'FINAL does not name every stream');
    }
    const lastOf = (stream: number) => ends.get(stream)?.last ?? 0;
    // What comes from here on is not for this attempt: written now, it would be written after the state was loaded.
    for (const stream of streams.values()) stream.endAt(lastOf(stream.id));
    // The source has gone on by now, and says so on another connection.
    if ([...streams.values()].some((stream) => stream.goesOn)) await this.#ended();
    const applied = [
      state.complete(lastOf(stateStream), final.stateBytes),
      memory.appliedThrough(lastOf(memoryStream)),
      ...disks.map((disk, index) => disk.queue.appliedThrough(lastOf(firstDiskStream + index))),
    ];
    await raceAbort(Promise.all(applied), signal);
    this.#hasAll = true;
    watch.lap('apply');
    for (const stream of streams.values()) {
      const end = ends.get(stream.id);
      if (end === undefined || stream.appliedThrough !== end.last || stream.digest !== end.digest) {
        throw new MigrationError('digest-mismatch', `stream ${stream.id} is not what the source sent`);
      }
    }
    watch.lap('verify');
    // Beside the flush: what is read is what the guest will read, durable or not.
    this.#checking = audit.check({ attempt: final.attempt, signal });
    this.#checking.catch(() => {});
    try {
      await raceAbort(Promise.all(disks.map((disk) => disk.flush())), signal);
    } catch (error) {
      // The VM may be discarded for it, and is not to be read then.
      await this.end(asMigrationError(error, 'internal'));
      throw error;
    }
    watch.lap('flush');
    await raceAbort(this.#checking, signal);
    watch.lap('verify');
    const chunks = state.chunks;
    throwIfAborted(signal);
    if (disksAlone) return;
    this.#loading = vm.loadDeviceState(chunks, { signal });
    try {
      await raceAbort(this.#loading, signal);
    } catch (error) {
      this.#loadFailed = true;
      throw asMigrationError(error, 'device-state');
    }
    watch.lap('load');
    throwIfAborted(signal);
  }

  /** Gives it up; resolves when nothing of it is under way any more. */
  async end(reason: MigrationError): Promise<void> {
    this.#scope.abort(reason);
    await Promise.allSettled([this.#checking, this.#loading]);
  }

  /** Never resolves; rejects when it is given up. */
  #ended(): Promise<never> {
    return raceAbort(new Promise<never>(() => {}), this.#scope.signal);
  }
}
