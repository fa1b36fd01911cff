/** The destination's end of a migration: `migrate()` reads as the list of phases. */
import type { Channel } from '../channel/channel.ts';
import { ChannelAcceptor, noSession } from '../channel/connect.ts';
import { CreditPool } from '../channel/credit-pool.ts';
import type { GreetedConnection } from '../channel/handshake.ts';
import { answer } from '../channel/question.ts';
import type { ReceiveStream } from '../channel/receive-stream.ts';
import { asMigrationError, type GuestState, MigrationError, type Owner } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { DestinationVm, HypervisorBackend } from '../interfaces/hypervisor.ts';
import type { MigrationReport, Outcome } from '../interfaces/migration.ts';
import type { ClaimValue, OwnershipRegister } from '../interfaces/register.ts';
import type { Transport } from '../interfaces/transport.ts';
import { nodeEnvironment } from '../util/node-environment.ts';
import { deferred, delay, raceAbort, throwIfAborted, withTimeout } from '../util/promises.ts';
import { asGreeted } from '../wire/greeting.ts';
import {
  firstDiskStream,
  type MessageOf,
  type MessageType,
  memoryStream,
  stateStream,
} from '../wire/messages.ts';
import type { ApplyQueue } from './apply-queue.ts';
import {
  answerTo,
  checkEpoch,
  highestEpoch,
  nextEpoch,
  verdictForDestination,
} from './handover/ownership.ts';
import { createMemoryReceiver } from './memory/memory-receiver.ts';
import { type Migration, MigrationEnd } from './migration.ts';
import type { ProgressSnapshot } from './progress-meter.ts';
import { StateReceiver } from './state-receiver.ts';
import { DiskReceiver } from './storage/disk-receiver.ts';
import { tidy } from './tidy.ts';

/** What {@link createDestination} needs. */
export interface DestinationOptions {
  /** Prepares the VM that takes over. */
  readonly backend: HypervisorBackend;
  /** Where the source connects; must be able to accept connections. Stays the caller's to close. */
  readonly transport: Transport;
  /** Where this end claims ownership. */
  readonly register: OwnershipRegister;
  /** How long to wait for a source to connect, in ms: 100 to 86,400,000. Default: 86,400,000, a day. */
  readonly connectMsMax?: number;
  /** Time and chance. Default: the process's own. */
  readonly environment?: Environment;
}

/** What all streams together may hold that has arrived and is not applied, and what is on its way. */
const receiveBytesMax = 256 << 20;
/** What this end may have on its way: it sends next to nothing. */
const windowBytesMax = 1 << 20;
/** How long a connection may take over its greeting or its question. */
const greetingMsMax = 10_000;
/**
 * How long a source may take over its first word: it dials all its connections before, each by every path if need be. One that is dead is
 * noticed much sooner, by its silence.
 */
const firstWordMsMax = 120_000;
/** How long a hypervisor may take to start a guest that was loaded. */
const startMsMax = 60_000;

/**
 * The destination's end of one migration. Throws `invalid-argument`, and `unsupported` for a transport that cannot accept; nothing has
 * been touched then.
 *
 * Until the source has given the VM, whatever fails here leaves nothing behind, and the guest runs on at the source. When it has, this end
 * decides, once: it owns the VM and starts it, or declines and never does.
 */
export function createDestination(options: DestinationOptions): Migration {
  return new Destination(options);
}

type Prepare = MessageOf<'prepare'>;

class Destination extends MigrationEnd {
  readonly #backend: HypervisorBackend;
  readonly #transport: Transport;
  readonly #register: OwnershipRegister;
  readonly #connectMsMax: number;
  readonly #streams = new Map<number, ReceiveStream>();
  readonly #disks: DiskReceiver[] = [];
  readonly #answered = deferred<void>();
  #channel: Channel | undefined;
  #prepare: Prepare | undefined;
  #vm: DestinationVm | undefined;
  #memory: ApplyQueue | undefined;
  #state: StateReceiver | undefined;
  #epoch = 0;
  #saidReady = false;
  #owner: Owner = 'source';
  #started = false;
  #final: MessageOf<'final'> | undefined;
  #finalMs = 0;
  #downtimeMs = 0;
  /** It failed before READY: nothing will be decided here but by those who ask. */
  #over = false;

  constructor(options: DestinationOptions) {
    super(options.environment ?? nodeEnvironment);
    this.#backend = options.backend;
    this.#transport = options.transport;
    this.#register = options.register;
    this.#connectMsMax = options.connectMsMax ?? 86_400_000;
    if (!(this.#connectMsMax >= 100 && this.#connectMsMax <= 86_400_000)) {
      throw new MigrationError('invalid-argument', 'connectMsMax must be from 100 to 86,400,000');
    }
    if (!this.#transport.capabilities.accept) {
      throw new MigrationError('unsupported', "the destination's transport cannot accept connections");
    }
  }

  protected async migrate(): Promise<MigrationReport> {
    const acceptor = new ChannelAcceptor({
      transport: this.#transport,
      environment: this.environment,
      windowBytesMax,
      sessions: true,
      greetingMsMax,
      onQuestion: (greeted, closed) => this.#answer(greeted, closed),
    });
    try {
      await this.#connect(acceptor);
      await this.#prepareVm();
      await this.#receive();
      await this.#verify();
      await this.#handover();
      await this.#release();
      return this.#report('completed');
    } catch (error) {
      return await this.#failed(asMigrationError(error, 'internal'));
    } finally {
      await acceptor.close();
    }
  }

  async #connect(acceptor: ChannelAcceptor): Promise<void> {
    this.enter('connect');
    throwIfAborted(this.signal);
    const startMs = this.environment.now();
    for (;;) {
      const leftMs = Math.max(0, startMs + this.#connectMsMax - this.environment.now());
      const channel = await withTimeout(this.environment, leftMs, acceptor.channel(this.signal), () =>
        noSession(this.#connectMsMax),
      );
      const silent = new MigrationError('timeout', 'the source said nothing of its VM');
      const word = raceAbort(channel.mailbox.take('prepare', 'abort'), this.signal);
      try {
        const said = await withTimeout(this.environment, firstWordMsMax, word, () => silent);
        if (said.type === 'abort') throw endedBySource(said.reason);
        if (asGreeted(said.vm.vmId) !== channel.greetedFor) {
          throw new MigrationError(
            'protocol',
            `the source greeted for ${channel.greetedFor} and sends ${said.vm.vmId}`,
          );
        }
        this.#prepare = said;
        return this.#adopt(channel);
      } catch (error) {
        const wentSilent = error === silent || isTimeout(channel.signal.reason);
        channel.abort(asMigrationError(error, 'internal'));
        throwIfAborted(this.signal);
        // Whoever connects and says nothing leaves the place to the next.
        if (!wentSilent) throw error;
        acceptor.again();
      }
    }
  }

  #adopt(channel: Channel): void {
    this.#channel = channel;
    channel.signal.addEventListener('abort', () => this.stop(channel.signal.reason), { once: true });
    channel.mailbox.take('abort').then(
      ({ reason }) => this.stop(endedBySource(reason)),
      () => {},
    );
  }

  /** Everything that can be refused is refused here, before a byte is copied. */
  async #prepareVm(): Promise<void> {
    this.enter('prepare');
    const prepare = this.#prepare;
    if (prepare === undefined) throw new MigrationError('internal', 'prepared before the source connected');
    const { vm: description } = prepare;
    const claims = await raceAbort(this.#register.read(description.vmId), this.signal);
    checkEpoch(prepare.highest, claims);
    const shared = new Set(
      Object.entries(prepare.disks).flatMap(([id, mode]) => (mode === 'shared' ? [id] : [])),
    );
    const vm = await this.#backend.prepare(description, { signal: this.signal, shared });
    this.#vm = vm;
    throwIfAborted(this.signal);
    this.#epoch = nextEpoch(prepare.highest, highestEpoch(claims));
    this.#openStreams(prepare, vm);
    this.#live().send({ type: 'prepared', epoch: this.#epoch, backend: this.#backend.name });
  }

  #openStreams(prepare: Prepare, vm: DestinationVm): void {
    const channel = this.#live();
    const failed = (error: MigrationError) => this.stop(error);
    const modes = new Map(Object.entries(prepare.disks));
    const copied = prepare.vm.disks.filter(({ id }) => modes.get(id) === 'copy');
    const credit = new CreditPool({
      totalBytes: receiveBytesMax,
      streams: copied.length + 2,
      now: () => this.environment.now(),
      roundTripMs: () => channel.roundTripMs,
    });
    const open = (id: number, handler: ApplyQueue['arrived']) => {
      const stream = channel.openReceive(id, prepare.digestKey, credit.open(), handler);
      this.#streams.set(id, stream);
      return stream;
    };
    const state = new StateReceiver(failed);
    state.attach(open(stateStream, state.arrived));
    this.#state = state;
    const memory = createMemoryReceiver(vm.memory, failed);
    memory.attach(open(memoryStream, memory.arrived));
    this.#memory = memory;
    for (const [index, { id }] of copied.entries()) {
      const disk = vm.disks.find((candidate) => candidate.id === id);
      if (disk === undefined) throw new MigrationError('internal', `the backend prepared no disk ${id}`);
      const receiver = new DiskReceiver(disk, failed);
      receiver.queue.attach(open(firstDiskStream + index, receiver.queue.arrived));
      this.#disks.push(receiver);
    }
  }

  /** Data arrives by itself; here the source's words are followed until FINAL. */
  async #receive(): Promise<MessageOf<'final'>> {
    for (;;) {
      const message = await this.#take('phase', 'flush', 'final');
      switch (message.type) {
        case 'phase':
          this.enter(message.phase);
          break;
        case 'flush':
          await raceAbort(this.#flush(message.token), this.signal);
          break;
        case 'final':
          this.#final = message;
          this.#finalMs = this.environment.now();
          return message;
      }
    }
  }

  /** What has arrived and is not written yet would have to be written during the stun: it counts as a part of the flush. */
  async #flush(token: number): Promise<void> {
    const start = this.environment.now();
    await Promise.all([this.#memory?.caughtUp(), ...this.#disks.map(({ queue }) => queue.caughtUp())]);
    await Promise.all(this.#disks.map((disk) => disk.flush()));
    this.#live().send({ type: 'flushed', token, durationMs: this.environment.now() - start });
  }

  /** Complete is what FINAL names, applied: nothing follows from its arrival. Then check, flush, load. */
  async #verify(): Promise<void> {
    const final = this.#final;
    const vm = this.#vm;
    if (final === undefined || vm === undefined) throw new MigrationError('internal', 'verified too early');
    this.enter('verify');
    const ends = new Map(final.streams.map((end) => [end.stream, end]));
    if (ends.size !== this.#streams.size || [...this.#streams.keys()].some((id) => !ends.has(id))) {
      throw new MigrationError('protocol', 'FINAL does not name every stream');
    }
    const lastOf = (stream: number) => ends.get(stream)?.last ?? 0;
    // From here on nothing may come: what did would be written after the state was loaded.
    for (const stream of this.#streams.values()) stream.endAt(lastOf(stream.id));
    const applied = [
      this.#state?.complete(lastOf(stateStream), final.stateBytes),
      this.#memory?.appliedThrough(lastOf(memoryStream)),
      ...this.#disks.map((disk, index) => disk.queue.appliedThrough(lastOf(firstDiskStream + index))),
    ];
    await raceAbort(Promise.all(applied), this.signal);
    for (const stream of this.#streams.values()) {
      const end = ends.get(stream.id);
      if (end === undefined || stream.appliedThrough !== end.last || stream.digest !== end.digest) {
        throw new MigrationError('digest-mismatch', `stream ${stream.id} is not what the source sent`);
      }
    }
    await raceAbort(Promise.all(this.#disks.map((disk) => disk.flush())), this.signal);
    await vm.loadDeviceState(this.#state?.chunks ?? [], { signal: this.signal });
    throwIfAborted(this.signal);
    this.#saidReady = true;
    this.#live().send({ type: 'ready' });
  }

  /** Waits for GO; then claims and, if the claim stands, starts. */
  async #handover(): Promise<void> {
    this.enter('handover');
    const waitMs = this.#prepare?.decideMsMax ?? 0;
    const go = await withTimeout(
      this.environment,
      waitMs,
      this.#take('go'),
      () => new MigrationError('timeout', `no GO within ${waitMs} ms after READY`),
    );
    if (go.epoch !== this.#epoch)
      throw new MigrationError('protocol', `GO for attempt ${go.epoch}, not ${this.#epoch}`);
    // From the call of the claim on, only what stands counts: no abort, no lost link.
    this.commit();
    this.#owner = 'undecided';
    await this.#claimOwner();
    await this.#start();
  }

  /** *owner* stands: the guest runs here, and nowhere else. */
  async #start(): Promise<void> {
    this.#owner = 'destination';
    const starting = this.#vm?.start({ run: this.#final?.run ?? true }) ?? Promise.resolve();
    const late = () => new MigrationError('timeout', `the guest did not start within ${startMsMax} ms`);
    await withTimeout(this.environment, startMsMax, starting, late);
    this.#started = true;
    this.#downtimeMs = this.environment.now() - this.#finalMs;
    this.#channel?.send({ type: 'decided', value: 'owner', reason: '' });
  }

  /**
   * Resolves when *owner* stands. A claim whose call failed may stand all the same, so *declined* is claimed then, and what that comes to
   * is what stands. Throws when it is *declined*, or when even that cannot be learned.
   */
  async #claimOwner(): Promise<void> {
    let problem: unknown;
    let value: ClaimValue;
    try {
      value = await this.#claim('owner');
    } catch (error) {
      problem = error;
      value = await this.#claim('declined');
    }
    const claims = [{ epoch: this.#epoch, role: 'destination' as const, value }];
    if (verdictForDestination(claims, this.#epoch) === 'start') return;
    if (problem !== undefined) throw problem;
    throw new MigrationError('declined', `attempt ${this.#epoch} had been declined before GO arrived`);
  }

  /**
   * Resolves to the value that stands. Rejects with `register` if that cannot be learned in time: a part of what the source waits, so that
   * a claim of *owner* that hangs, one of *declined* behind it, and the answer all fit.
   */
  #claim(value: 'owner' | 'declined'): Promise<ClaimValue> {
    const claiming = this.#register.claim(this.#vmId(), this.#epoch, 'destination', value);
    return withTimeout(
      this.environment,
      (this.#prepare?.decideMsMax ?? 0) / 3,
      claiming,
      () => new MigrationError('register', `the claim of ${value} took too long`),
    );
  }

  /** The guest runs. Stays until the source knows: by the channel, or, should that be lost, by asking. */
  async #release(): Promise<void> {
    this.enter('release');
    await this.#untilSourceKnows();
    await tidy(this.environment, [
      () => this.#vm?.discard() ?? Promise.resolve(),
      () => this.#closeChannel(),
    ]);
  }

  async #untilSourceKnows(): Promise<void> {
    const channel = this.#channel;
    if (channel === undefined) return;
    const waitMs = this.#prepare?.decideMsMax ?? 0;
    const late = () => new MigrationError('timeout', 'the source did not say goodbye');
    try {
      await withTimeout(this.environment, waitMs, channel.mailbox.take('bye'), late);
    } catch {
      // The link was lost: the source will ask. Whether it does or not, the guest runs here.
      const waiting = new AbortController();
      await Promise.race([this.#answered.promise, delay(this.environment, waitMs, waiting.signal)]);
      waiting.abort();
    }
  }

  /** A source that lost its link asks. The one that we wait for has its answer when it has ended the connection with it. */
  async #answer(greeted: GreetedConnection, closed: AbortSignal): Promise<void> {
    let ours = false;
    const decide = async (vmId: string, epoch: number) => {
      const value = await this.#decisionOn(vmId, epoch);
      ours = this.#isOurs(vmId, epoch) && value !== 'pending';
      return value;
    };
    const delivered = await answer(greeted, this.environment, greetingMsMax, decide, closed);
    if (delivered && ours) this.#answered.resolve();
  }

  /** Never says what does not stand. Of our own attempt there is nothing to decide before READY, and nothing to decline once GO is here. */
  async #decisionOn(vmId: string, epoch: number): Promise<'owner' | 'declined' | 'pending'> {
    const active = this.#isOurs(vmId, epoch) && (!this.#saidReady || this.#owner !== 'source');
    const claims = await this.#register.read(vmId);
    checkEpoch(epoch, claims);
    const verdict = answerTo(claims, epoch, active);
    if (verdict !== 'decline') return verdict;
    const value = await this.#register.claim(vmId, epoch, 'destination', 'declined');
    return value === 'owner' ? 'owner' : 'declined';
  }

  /** Whether it is the attempt that runs here. */
  #isOurs(vmId: string, epoch: number): boolean {
    return !this.#over && this.#prepare !== undefined && vmId === this.#vmId() && epoch === this.#epoch;
  }

  async #failed(thrown: MigrationError): Promise<MigrationReport> {
    const { phase } = this.clock;
    let error: MigrationError = this.signal.aborted ? this.signal.reason : thrown;
    if (this.#owner === 'destination') {
      // It is ours, and it did not start: nobody else may run it.
      this.#channel?.send({ type: 'decided', value: 'owner', reason: error.message });
      await this.#untilSourceKnows();
      await tidy(this.environment, [() => this.#closeChannel(error)]);
      return this.#report(
        'failed',
        error.with({ phase, owner: 'destination', guest: isTimeout(error) ? 'unknown' : 'paused' }),
      );
    }
    if (this.#saidReady) {
      // The source may have given the VM: that it never starts here must stand.
      const value = await this.#claim('declined').catch(() => undefined);
      if (value === 'owner' && this.committed) return this.#startAfterAll();
      if (value !== 'declined') {
        this.#owner = 'undecided';
        error = error.with({ phase, owner: 'undecided', guest: 'paused' });
        await tidy(this.environment, [() => this.#closeChannel(error)]);
        return this.#report('undecided', error);
      }
    }
    const { code, message } = error;
    if (this.#saidReady) {
      this.#channel?.send({ type: 'decided', value: 'declined', reason: message });
      await this.#untilSourceKnows();
    } else {
      this.#over = true;
      this.#channel?.send({ type: 'failed', code, reason: message });
    }
    this.#owner = 'source';
    await tidy(this.environment, [
      ...this.#disks.map((disk) => () => disk.queue.stop()),
      () => this.#memory?.stop() ?? Promise.resolve(),
      () => this.#vm?.discard() ?? Promise.resolve(),
      () => this.#closeChannel(error),
    ]);
    return this.#report('failed', error.with({ phase, owner: 'source', guest: this.#guestAtSource() }));
  }

  /** Our claim of *owner* stands, though its call failed. */
  async #startAfterAll(): Promise<MigrationReport> {
    try {
      await this.#start();
      await this.#release();
      return this.#report('completed');
    } catch (error) {
      return this.#failed(asMigrationError(error, 'internal'));
    }
  }

  #guestAtSource(): GuestState {
    return this.#saidReady ? 'unknown' : 'running';
  }

  async #closeChannel(reason?: MigrationError): Promise<void> {
    const channel = this.#channel;
    if (channel === undefined) return;
    const late = () => new MigrationError('timeout', 'the connection did not close in time');
    try {
      await withTimeout(this.environment, 1000, channel.close(), late);
    } catch {
      channel.abort(reason ?? late());
    }
  }

  #vmId(): string {
    return this.#prepare?.vm.vmId ?? '';
  }

  #live(): Channel {
    throwIfAborted(this.signal);
    if (this.#channel === undefined) throw new MigrationError('internal', 'there is no channel yet');
    return this.#channel;
  }

  #take<T extends MessageType>(...types: readonly T[]): Promise<MessageOf<T>> {
    return raceAbort(this.#live().mailbox.take(...types), this.signal);
  }

  #appliedBytes(): { readonly disk: number; readonly memory: number } {
    const disk = this.#disks.reduce((sum, { queue }) => sum + queue.appliedBytes, 0);
    return { disk, memory: this.#memory?.appliedBytes ?? 0 };
  }

  protected snapshot(): ProgressSnapshot {
    const description = this.#prepare?.vm;
    const memoryBytes = description?.memory.reduce((sum, region) => sum + region.sizeBytes, 0) ?? 0;
    const applied = this.#appliedBytes();
    const disks = this.#disks.map(({ disk, queue }) => ({
      name: disk.id,
      totalBytes: disk.sizeBytes,
      doneBytes: Math.min(disk.sizeBytes, queue.appliedBytes),
    }));
    const memory = {
      name: 'memory',
      totalBytes: memoryBytes,
      doneBytes: Math.min(memoryBytes, applied.memory),
    };
    return {
      phase: this.clock.phase,
      elapsedMs: this.clock.elapsedMs,
      transferredBytes: this.#channel?.statistics.wireBytes ?? 0,
      streams: description === undefined ? [] : [...disks, memory],
      rounds: 0,
      throttle: 0,
      ...(this.#channel === undefined ? {} : { link: this.#channel.statistics.link }),
    };
  }

  #report(outcome: Outcome, error?: MigrationError): MigrationReport {
    this.clock.enter('done');
    const statistics = this.#channel?.statistics;
    const counts = { memory: 0, bulk: 0, mirror: 0, state: 0 };
    for (const stream of this.#streams.values()) {
      if (stream.id === stateStream) counts.state += stream.contentBytes.memory;
      else
        for (const kind of ['memory', 'bulk', 'mirror'] as const) counts[kind] += stream.contentBytes[kind];
    }
    return {
      role: 'destination',
      vmId: this.#vmId(),
      epoch: this.#epoch,
      outcome,
      owner: this.#owner,
      ...(error === undefined ? {} : { error }),
      totalMs: this.clock.elapsedMs,
      downtimeMs: this.#started ? this.#downtimeMs : 0,
      phases: this.clock.durations,
      bytes: {
        memory: counts.memory,
        disk: counts.bulk,
        mirror: counts.mirror,
        state: counts.state,
        wire: statistics?.wireBytes ?? 0,
      },
      rounds: 0,
      throttleMax: 0,
      guestWrites: { mirrored: 0, setBack: 0 },
      guestWriteHoldMs: 0,
      roundTripMs: statistics?.roundTripMs ?? 0,
      ...(statistics === undefined ? {} : { link: statistics.link }),
    };
  }
}

function endedBySource(reason: string): MigrationError {
  return new MigrationError('peer-failed', `the source ended the migration: ${reason}`);
}

function isTimeout(error: unknown): boolean {
  return error instanceof MigrationError && error.code === 'timeout';
}
