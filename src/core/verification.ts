import type { ReceiveStream } from '../channel/receive-stream.ts';
import { asMigrationError, MigrationError } from '../errors.ts';
import type { DestinationVm } from '../interfaces/hypervisor.ts';
import { onAbort } from '../util/on-abort.ts';
import { raceAbort, throwIfAborted } from '../util/promises.ts';
import { firstDiskStream, type MessageOf, memoryStream, stateStream } from '../wire/messages.ts';
import type { ApplyQueue } from './apply-queue.ts';
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
  /** The migration's. */
  readonly signal: AbortSignal;
}

/**
 * What the destination does with FINAL: complete is what it names, applied; nothing follows from its arrival. Then check, flush, load.
 *
 * What is not as FINAL says stays so: the sums are over all that was ever sent. Only what goes wrong in loading may go better another time.
 */
export class Verification {
  readonly #options: VerificationOptions;
  readonly #scope = new AbortController();
  #loading: Promise<void> | undefined;
  #loadFailed = false;

  constructor(options: VerificationOptions) {
    this.#options = options;
    onAbort(options.signal, () => this.#scope.abort(options.signal.reason));
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
    const { vm, disksAlone, state, memory, disks, streams } = this.#options;
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
    for (const stream of streams.values()) {
      const end = ends.get(stream.id);
      if (end === undefined || stream.appliedThrough !== end.last || stream.digest !== end.digest) {
        throw new MigrationError('digest-mismatch', `stream ${stream.id} is not what the source sent`);
      }
    }
    await raceAbort(Promise.all(disks.map((disk) => disk.flush())), signal);
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
    throwIfAborted(signal);
  }

  /** Gives it up; resolves when nothing of it is under way any more. */
  async end(reason: MigrationError): Promise<void> {
    this.#scope.abort(reason);
    await Promise.allSettled([this.#loading]);
  }

  /** Never resolves; rejects when it is given up. */
  #ended(): Promise<never> {
    return raceAbort(new Promise<never>(() => {}), this.#scope.signal);
  }
}
