/** The destination's end of a migration: `migrate()` reads as the list of phases. */
import type { Channel } from '../channel/channel.ts';
import { ChannelAcceptor, noSession } from '../channel/connect.ts';
import { CreditPool } from '../channel/credit-pool.ts';
import type { ProvedConnection } from '../channel/handshake.ts';
import { answer } from '../channel/question.ts';
import type { ReceiveStream } from '../channel/receive-stream.ts';
import { secretOf, type Ticket } from '../channel/ticket.ts';
import { asMigrationError, type GuestState, MigrationError, type Owner } from '../errors.ts';
import type { BlockDevice } from '../interfaces/block-device.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { DestinationHooks } from '../interfaces/hooks.ts';
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
import { AuditChecker } from './audit/audit-checker.ts';
import { AuditTally } from './audit/audit-tally.ts';
import { compressionOf, decompressAsOffered } from './codecs.ts';
import { Stopwatch } from './downtime.ts';
import { ClaimTime } from './handover/claim-time.ts';
import { HookRunner } from './handover/hooks.ts';
import {
  answerTo,
  checkEpoch,
  epochGapBits,
  highestEpoch,
  nextEpoch,
  verdictForDestination,
} from './handover/ownership.ts';
import { inTime } from './in-time.ts';
import { createMemoryReceiver } from './memory/memory-receiver.ts';
import { type Migration, MigrationEnd, wentWell } from './migration.ts';
import { nothingLost } from './nothing-lost.ts';
import { codeOfPeer } from './peer-failed.ts';
import { ArrivedFraction } from './prediction/arrived-fraction.ts';
import { takeProbe } from './prediction/probe-link.ts';
import type { ProgressSnapshot } from './progress-meter.ts';
import { StateReceiver } from './state-receiver.ts';
import { DigestSender } from './storage/digest-sender.ts';
import { DiskReceiver } from './storage/disk-receiver.ts';
import { tidy } from './tidy.ts';
import { Verification } from './verification.ts';

/** What {@link createDestination} needs. */
export interface DestinationOptions {
  /** Prepares the VM that takes over. */
  readonly backend: HypervisorBackend;
  /** Where the source connects; must be able to accept connections. Stays the caller's to close. */
  readonly transport: Transport;
  /** This migration's ticket, which the source has too: {@link createTicket}. Default: none, and then whoever connects first is the source. */
  readonly ticket?: Ticket | string | undefined;
  /** Where this end claims ownership. */
  readonly register: OwnershipRegister;
  /** How long to wait for a source to connect, in ms: 100 to 86,400,000. It begins anew after an `estimate()`. Default: 86,400,000, a day. */
  readonly connectMsMax?: number;
  /** What the caller does around the start of the guest. Default: nothing. */
  readonly hooks?: DestinationHooks;
  /**
   * How long each hook may take, in ms: above 0, at most 60,000. Default 5000. The guest waits for `beforeStart`, and the source for the
   * answer that comes after it: well below the source's `decideMsMax`, or it has to ask.
   */
  readonly hookMsMax?: number;
  /** Time and chance. Default: the process's own. */
  readonly environment?: Environment;
}

/** What all streams together may hold that has arrived and is not applied, and what is on its way. */
const receiveBytesMax = 256 << 20;
/** What this end may have on its way: it sends next to nothing. */
const windowBytesMax = 1 << 20;
/** How long a connection may take over its greeting, its proof or its question. */
const greetingMsMax = 10_000;
/**
 * How long a source may take over its first word: one that measures dials all its connections before, each by every path if need be. One that is dead is
 * noticed much sooner, by its silence.
 */
const firstWordMsMax = 120_000;
/** What is lived through until the source has said how much it is to be. */
const enduranceAtFirst = { silenceMsMax: 5000, outageMsMax: 10_000 };
/** How long loading that is to end may go on. */
const endMsMax = 10_000;
/** How long a hypervisor may take to start a guest that was loaded, or to hand disks over. */
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
/** What the source says to FINAL, sooner or later. */
type Word = MessageOf<'go'> | MessageOf<'retreat'> | MessageOf<'rehearsed'> | MessageOf<'copied'>;

class Destination extends MigrationEnd {
  readonly #backend: HypervisorBackend;
  readonly #transport: Transport;
  readonly #secret: Uint8Array;
  readonly #register: OwnershipRegister;
  readonly #claims: ClaimTime;
  readonly #connectMsMax: number;
  readonly #hooks: HookRunner;
  /** The hook that is called when the guest runs. */
  #afterStart = Promise.resolve();
  readonly #streams = new Map<number, ReceiveStream>();
  readonly #disks: DiskReceiver[] = [];
  readonly #answered = deferred<void>();
  #channel: Channel | undefined;
  #prepare: Prepare | undefined;
  #vm: DestinationVm | undefined;
  #memory: ApplyQueue | undefined;
  #state: StateReceiver | undefined;
  #epoch = 0;
  /** The source may have given the VM: that it never starts here has to stand, should it come to nothing. */
  #mayBeOurs = false;
  #owner: Owner = 'source';
  #started = false;
  /** From then on only the hypervisor knows whether the guest runs. */
  #startCalled = false;
  #final: MessageOf<'final'> | undefined;
  #verification: Verification | undefined;
  #audit: AuditChecker | undefined;
  /** Why the last switchover failed here. Should the source end the migration over it, that is why. */
  #notReady: MigrationError | undefined;
  #finalMs = 0;
  /** What is done here while the guest stands still, since FINAL came, or GO. */
  #watch = new Stopwatch(this.environment);
  #downtimeMs = 0;
  readonly #fraction = new ArrivedFraction();
  #outcome: Outcome | undefined;
  /** It failed before READY: nothing will be decided here but by those who ask. */
  #over = false;

  constructor(options: DestinationOptions) {
    super(options.environment ?? nodeEnvironment);
    this.#backend = options.backend;
    this.#transport = options.transport;
    this.#secret = secretOf(options.ticket);
    this.#register = options.register;
    this.#claims = new ClaimTime(options.register, this.environment);
    this.#connectMsMax = options.connectMsMax ?? 86_400_000;
    if (!(this.#connectMsMax >= 100 && this.#connectMsMax <= 86_400_000)) {
      throw new MigrationError('invalid-argument', 'connectMsMax must be from 100 to 86,400,000');
    }
    this.#hooks = new HookRunner(this.environment, options.hooks, options.hookMsMax);
    if (!this.#transport.capabilities.accept) {
      throw new MigrationError('unsupported', "the destination's transport cannot accept connections");
    }
  }

  protected async migrate(): Promise<MigrationReport> {
    const acceptor = new ChannelAcceptor({
      transport: this.#transport,
      secret: this.#secret,
      environment: this.environment,
      windowBytesMax,
      sessions: true,
      greetingMsMax,
      onQuestion: (greeted, closed) => this.#answer(greeted, closed),
    });
    try {
      await this.#connect(acceptor);
      await this.#prepareVm();
      const word = await this.#untilGiven();
      if (word.type === 'rehearsed') return await this.#endRehearsal();
      if (word.type === 'copied') return await this.#handDisksOver();
      await this.#handover(word);
      return await this.#completed();
    } catch (error) {
      return await this.#failed(asMigrationError(error, 'internal'));
    } finally {
      await Promise.all([acceptor.close(), this.#claims.settled()]);
    }
  }

  async #connect(acceptor: ChannelAcceptor): Promise<void> {
    this.enter('connect');
    throwIfAborted(this.signal);
    let startMs = this.environment.now();
    for (;;) {
      const leftMs = Math.max(0, startMs + this.#connectMsMax - this.environment.now());
      const channel = await withTimeout(this.environment, leftMs, acceptor.channel(this.signal), () =>
        noSession(this.#connectMsMax),
      );
      channel.outlast(enduranceAtFirst);
      const silent = new MigrationError('timeout', 'the source said nothing of its VM');
      const word = raceAbort(channel.mailbox.take('prepare', 'probe', 'abort'), this.signal);
      try {
        const said = await withTimeout(this.environment, firstWordMsMax, word, () => silent);
        if (said.type === 'abort') throw endedBySource(said.reason);
        if (said.type === 'probe') {
          await takeProbe(channel, this.environment, this.signal, () => acceptor.again());
          // Who measured means to come back.
          startMs = this.environment.now();
          continue;
        }
        if (asGreeted(said.vm.vmId) !== channel.greetedFor) {
          throw new MigrationError(
            'protocol',
            `the source greeted for ${channel.greetedFor} and sends ${said.vm.vmId}`,
          );
        }
        this.#prepare = said;
        return this.#adopt(channel, said);
      } catch (error) {
        const { reason } = channel.signal;
        const wentSilent = error === silent || isTimeout(reason) || isTimeout(reason?.cause);
        channel.abort(asMigrationError(error, 'internal'));
        throwIfAborted(this.signal);
        // Whoever connects and says nothing leaves the place to the next.
        if (!wentSilent) throw error;
        acceptor.again();
      }
    }
  }

  #adopt(channel: Channel, { silenceMsMax, outageMsMax }: Prepare): void {
    this.#channel = channel;
    channel.signal.addEventListener('abort', () => this.stop(channel.signal.reason), { once: true });
    channel.mailbox.take('abort').then(
      ({ reason }) => this.stop(this.#notReady ?? endedBySource(reason)),
      () => {},
    );
    channel.outlast({ silenceMsMax, outageMsMax, onMended: (outage) => this.mended(outage) });
  }

  /** Everything that can be refused is refused here, before a byte is copied. */
  async #prepareVm(): Promise<void> {
    this.enter('prepare');
    const prepare = this.#prepare;
    if (prepare === undefined) throw new MigrationError('internal', 'prepared before the source connected');
    const { vm: description } = prepare;
    const claims = await raceAbort(this.#register.read(description.vmId), this.signal);
    this.#readyRegister();
    checkEpoch(prepare.highest, claims);
    const shared = new Set(
      Object.entries(prepare.disks).flatMap(([id, mode]) => (mode === 'shared' ? [id] : [])),
    );
    const vm = await this.#backend.prepare(description, {
      signal: this.signal,
      shared,
      memory: prepare.memory,
    });
    this.#vm = vm;
    throwIfAborted(this.signal);
    this.#epoch = nextEpoch(prepare.highest, highestEpoch(claims), this.#epochGap());
    const agreed = decompressAsOffered(this.#live(), this.environment, prepare);
    this.#openStreams(prepare, vm);
    this.#mayBeOurs = this.#inOneFlight;
    this.#live().send({ type: 'prepared', epoch: this.#epoch, backend: this.#backend.name, ...agreed });
    for (const { digests } of this.#disks) digests?.start();
  }

  /** Where anything is going to be claimed. */
  #readyRegister(): void {
    if (!this.#disksAlone) this.#claims.look(this.#vmId());
  }

  #epochGap(): number {
    return new DataView(this.environment.randomBytes(4).buffer).getUint32(0) >>> (32 - epochGapBits);
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
      const receiver = new DiskReceiver(
        disk,
        this.#digestsOf(disk, firstDiskStream + index, prepare),
        failed,
      );
      receiver.queue.attach(open(firstDiskStream + index, receiver.queue.arrived));
      this.#disks.push(receiver);
    }
  }

  /** Over the stream of the disk's own number, the other way. */
  #digestsOf(disk: BlockDevice, id: number, { seed, digestKey }: Prepare): DigestSender | undefined {
    if (seed === 'none') return undefined;
    const stream = this.#live().openSend(id, digestKey);
    return new DigestSender({
      disk,
      stream,
      environment: this.environment,
      signal: this.signal,
      failed: (error) => this.stop(error),
    });
  }

  /** Each time that the source stuns its guest, all of it is verified; until the VM is given, or no more was wanted. */
  async #untilGiven(): Promise<Exclude<Word, { readonly type: 'retreat' }>> {
    for (;;) {
      const word = await this.#verify(await this.#receive());
      if (word.type !== 'retreat') return word;
      await this.#retreat(word);
    }
  }

  /** FINAL is GO as well: the source may give the VM at any moment, and nobody here hears of it before. */
  get #inOneFlight(): boolean {
    return this.#prepare?.handover === 'one-flight' && !this.#disksAlone;
  }

  get #disksAlone(): boolean {
    return this.#prepare?.memory === 'none';
  }

  /** Data arrives by itself; here the source's words are followed until FINAL. */
  async #receive(): Promise<MessageOf<'final'>> {
    for (;;) {
      const message = await this.#take('phase', 'flush', 'retreat', 'final');
      switch (message.type) {
        case 'phase':
          this.enter(message.phase);
          break;
        case 'flush':
          await raceAbort(this.#flush(message.token), this.signal);
          break;
        case 'retreat':
          await this.#retreat(message);
          break;
        case 'final':
          if (message.attempt <= (this.#final?.attempt ?? 0)) {
            throw new MigrationError('protocol', `FINAL of attempt ${message.attempt}, which is over`);
          }
          if (this.#inOneFlight !== (message.given !== undefined)) throw outOfTurn('final');
          this.#final = message;
          this.#finalMs = this.environment.now();
          this.#watch = new Stopwatch(this.environment);
          this.#live().beginFlight();
          return message;
      }
    }
  }

  /** What has arrived and is not written yet would have to be written during the stun: it counts as a part of the flush. */
  async #flush(token: number): Promise<void> {
    const start = this.environment.now();
    this.#readyRegister();
    await Promise.all([this.#memory?.caughtUp(), ...this.#disks.map(({ queue }) => queue.caughtUp())]);
    await Promise.all(this.#disks.map((disk) => disk.flush()));
    const claimMs = this.#claims.ms;
    const durationMs = this.environment.now() - start;
    this.#live().send({ type: 'flushed', token, durationMs, ...(claimMs === undefined ? {} : { claimMs }) });
  }

  /** Says READY once all of it is applied, checked, flushed and loaded. Resolves to what the source says to that, or before that. */
  async #verify(final: MessageOf<'final'>): Promise<Word> {
    this.enter('verify');
    const { attempt, given } = final;
    const verification = this.#newVerification();
    if (given !== undefined) {
      await verification.run(final);
      this.enter('handover');
      return { type: 'go', epoch: given };
    }
    const word = this.#take('go', 'retreat', 'rehearsed', 'copied');
    const verified = verification.run(final).then(
      () => undefined,
      (error: unknown) => asMigrationError(error, 'internal'),
    );
    const first = await Promise.race([word, verified]);
    if (first === undefined) return this.#ready(attempt, word);
    if (!(first instanceof MigrationError)) return inTurn(first, attempt);
    word.catch(() => {});
    throwIfAborted(this.signal);
    const again = verification.loadFailed
      ? this.#vm?.capabilities.refill === true
      : first.code === 'audit-mismatch';
    if (!again) throw first;
    this.#notReady = first;
    this.#live().send({ type: 'notReady', attempt, code: first.code, reason: first.message });
    return inTurn(await word, attempt);
  }

  #newVerification(): Verification {
    const [vm, state, memory] = [this.#vm, this.#state, this.#memory];
    if (vm === undefined || state === undefined || memory === undefined) {
      throw new MigrationError('internal', 'verified too early');
    }
    const { signal } = this;
    this.#verification = new Verification({
      vm,
      disksAlone: this.#disksAlone,
      state,
      memory,
      disks: this.#disks,
      streams: this.#streams,
      audit: this.#auditOf(vm),
      watch: this.#watch,
      signal,
    });
    return this.#verification;
  }

  #auditOf(vm: DestinationVm): AuditChecker {
    this.#audit ??= new AuditChecker({
      mode: this.#prepare?.audit ?? 'off',
      vm,
      disks: new Map(this.#disks.map(({ disk }, index) => [firstDiskStream + index, disk])),
      channel: this.#live(),
      environment: this.environment,
    });
    return this.#audit;
  }

  async #ready(attempt: number, word: Promise<Word>): Promise<Word> {
    this.#mayBeOurs = !this.#disksAlone;
    this.#live().send({ type: 'ready', attempt, durations: this.#watch.durations });
    this.enter('handover');
    const said = await this.#inTime(word);
    this.#watch = new Stopwatch(this.environment);
    if ((said.type === 'go' && this.#disksAlone) || (said.type === 'copied' && !this.#disksAlone)) {
      throw outOfTurn(said.type);
    }
    return said;
  }

  /** Waits for what the source says to READY; for as long as the link is gone it cannot. */
  async #inTime(word: Promise<Word>): Promise<Word> {
    const waitMs = this.#prepare?.decideMsMax ?? 0;
    const late = new MigrationError('timeout', `no GO within ${waitMs} ms after READY`);
    return inTime(this.environment, this.#live(), waitMs, word, late);
  }

  /** The source's guest runs on, and what it sends is taken in again. Throws if that cannot be any more. */
  async #retreat({ attempt, stateLast, code, reason }: MessageOf<'retreat'>): Promise<void> {
    const verification = this.#verification;
    this.#verification = undefined;
    this.#notReady = undefined;
    this.#channel?.endFlight();
    // The source has given nothing, and will not before the next READY.
    this.#mayBeOurs = this.#inOneFlight;
    const error = new MigrationError(codeOfPeer(code), reason, { phase: this.clock.phase, guest: 'running' });
    if (verification !== undefined) await this.#takeBack(verification, error);
    this.#state?.forget(stateLast);
    for (const stream of this.#streams.values()) stream.goOn();
    const stunnedMs = verification === undefined ? 0 : this.environment.now() - this.#finalMs;
    this.emit('retreat', { attempt, error, stunnedMs });
  }

  async #takeBack(verification: Verification, error: MigrationError): Promise<void> {
    const late = () => new MigrationError('timeout', 'loading the device state does not end');
    const raced = raceAbort(verification.end(error), this.signal);
    await withTimeout(this.environment, endMsMax, raced, late);
    if (!verification.loadBegun) return;
    if (this.#vm?.capabilities.refill !== true) {
      const why = 'and here a VM whose device state was being loaded takes no more content';
      throw new MigrationError(error.code, `${error.message}; ${why}`);
    }
    const hangs = () => new MigrationError('timeout', 'the prepared VM does not go back to taking content');
    const refilling = raceAbort(this.#vm.refill(), this.signal);
    await withTimeout(this.environment, endMsMax, refilling, hangs);
  }

  /** The source knows what it wanted to. Nothing of it stays here. */
  async #endRehearsal(): Promise<MigrationReport> {
    this.#mayBeOurs = false;
    this.#over = true;
    await this.#giveUp();
    return this.#report('rehearsed');
  }

  /** Disks that came alone are whole, and their guest runs on at the source. */
  async #handDisksOver(): Promise<MigrationReport> {
    this.#over = true;
    for (const { digests } of this.#disks) void digests?.stop();
    // From the call on only its outcome counts: half-way nobody could say whether they were.
    this.commit();
    const handing = this.#vm?.handOver() ?? Promise.resolve();
    const late = () =>
      new MigrationError('timeout', `the disks were not handed over within ${startMsMax} ms`);
    await withTimeout(this.environment, startMsMax, handing, late);
    this.#channel?.send({ type: 'handedOver' });
    await this.#release();
    return this.#report('copied');
  }

  /** Claims what was given, and, if the claim stands, starts. */
  async #handover(go: MessageOf<'go'>): Promise<void> {
    if (go.epoch !== this.#epoch)
      throw new MigrationError('protocol', `GO for attempt ${go.epoch}, not ${this.#epoch}`);
    if ([...this.#streams.values()].some((stream) => stream.goesOn))
      throw new MigrationError('protocol', 'the source gives the VM, and sends more of it');
    for (const { digests } of this.#disks) void digests?.stop();
    // From the call of the claim on, only what stands counts: no abort, no lost link.
    this.commit();
    this.#owner = 'undecided';
    await this.#claimOwner();
    await this.#start();
  }

  /** *owner* stands: the guest runs here, and nowhere else. */
  async #start(): Promise<void> {
    this.#owner = 'destination';
    this.#watch.lap('claims');
    const of = { vmId: this.#vmId(), epoch: this.#epoch };
    await this.#hooks.run('beforeStart', of);
    this.#watch.lap('hooks');
    this.#startCalled = true;
    const starting = this.#vm?.start({ run: this.#final?.run ?? true }) ?? Promise.resolve();
    const late = () => new MigrationError('timeout', `the guest did not start within ${startMsMax} ms`);
    await withTimeout(this.environment, startMsMax, starting, late);
    this.#started = true;
    this.#downtimeMs = this.environment.now() - this.#finalMs;
    this.#watch.lap('start');
    this.#channel?.send({ type: 'decided', value: 'owner', reason: '', durations: this.#watch.durations });
    this.#afterStart = this.#hooks.run('afterStart', of);
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

  /** The guest is this end's, and was started: all that is left is for the caller's sake, and the source's. */
  async #completed(): Promise<MigrationReport> {
    await this.#release();
    await this.#afterStart;
    return this.#report('completed', this.#hooks.problem(this.#final?.run === false ? 'paused' : 'running'));
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
    const { decideMsMax: waitMs = 0, silenceMsMax = 0 } = this.#prepare ?? {};
    const late = new MigrationError('timeout', 'the source did not say goodbye');
    const bye = channel.mailbox.take('bye');
    // Where no VM is given nobody asks: while the link is gone, of which silence tells, its coming back is the only way to hear of it.
    if (this.#disksAlone) {
      await inTime(this.environment, channel, waitMs + 2 * silenceMsMax, bye, late).catch(() => {});
      return;
    }
    try {
      await withTimeout(this.environment, waitMs, bye, () => late);
    } catch {
      // The link was lost: the source will ask. Whether it does or not, the guest runs here.
      const waiting = new AbortController();
      await Promise.race([this.#answered.promise, delay(this.environment, waitMs, waiting.signal)]);
      waiting.abort();
    }
  }

  /** A source that lost its link asks. The one that we wait for has its answer when it has ended the connection with it. */
  async #answer(greeted: ProvedConnection, closed: AbortSignal): Promise<void> {
    let ours = false;
    const decide = async (vmId: string, epoch: number) => {
      const value = await this.#decisionOn(vmId, epoch);
      ours = this.#isOurs(vmId, epoch) && value !== 'pending';
      return value;
    };
    const delivered = await answer(greeted, this.environment, greetingMsMax, decide, closed);
    if (delivered && ours) this.#answered.resolve();
  }

  /**
   * Never says what does not stand. Of our own attempt there is nothing to decide before READY, and nothing to decline once GO is here; where it came with FINAL,
   * once all that FINAL names is here: whoever asks sends no more of it.
   */
  async #decisionOn(vmId: string, epoch: number): Promise<'owner' | 'declined' | 'pending'> {
    const goesOn = this.#final?.given !== undefined && this.#verification?.hasAll === true;
    const active = this.#isOurs(vmId, epoch) && (!this.#mayBeOurs || this.#owner !== 'source' || goesOn);
    const claims = await this.#register.read(vmId);
    checkEpoch(epoch, claims);
    const verdict = answerTo(claims, epoch, active);
    if (verdict !== 'decline') return verdict;
    const value = await this.#register.claim(vmId, epoch, 'destination', 'declined');
    // Whoever asks has given it, and GO did not come: there is nothing to wait for any more.
    if (value !== 'owner' && this.#isOurs(vmId, epoch))
      this.stop(new MigrationError('timeout', 'the source asks, and no GO came'));
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
        error.with({ phase, owner: 'destination', guest: this.#startCalled ? error.guest : 'paused' }),
      );
    }
    if (this.#mayBeOurs) {
      // The source may have given the VM: that it never starts here must stand.
      const value = await this.#claim('declined').catch(() => undefined);
      if (value === 'owner' && this.committed) return this.#startAfterAll();
      if (value !== 'declined') {
        this.#owner = 'undecided';
        error = error.with({ phase, owner: 'undecided', guest: 'paused' });
        // Nothing is written any more: whoever settles it may take the VM away.
        await tidy(this.environment, [...this.#writersStop, () => this.#closeChannel(error)]);
        return this.#report('undecided', error);
      }
    }
    const { code, message } = error;
    if (this.#mayBeOurs) {
      this.#channel?.send({ type: 'decided', value: 'declined', reason: message });
      // To a source that has not given it, and waits for READY or has gone on.
      this.#channel?.send({ type: 'failed', code, reason: message });
      await this.#untilSourceKnows();
    } else {
      this.#over = true;
      this.#channel?.send({ type: 'failed', code, reason: message });
    }
    this.#owner = 'source';
    await this.#giveUp(error);
    return this.#report('failed', error.with({ phase, owner: 'source', guest: this.#guestAtSource() }));
  }

  get #writersStop(): readonly (() => Promise<unknown>)[] {
    return [...this.#disks.map((disk) => () => disk.stop()), () => this.#memory?.stop() ?? Promise.resolve()];
  }

  async #giveUp(error?: MigrationError): Promise<void> {
    await tidy(this.environment, [
      ...this.#writersStop,
      () => this.#vm?.discard() ?? Promise.resolve(),
      () => this.#closeChannel(error),
    ]);
  }

  /** Our claim of *owner* stands, though its call failed. */
  async #startAfterAll(): Promise<MigrationReport> {
    try {
      await this.#start();
      return await this.#completed();
    } catch (error) {
      return this.#failed(asMigrationError(error, 'internal'));
    }
  }

  #guestAtSource(): GuestState {
    return this.#mayBeOurs ? 'unknown' : 'running';
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
    const disks = this.#disks.map(({ disk, doneBytes }) => ({
      name: disk.id,
      totalBytes: disk.sizeBytes,
      doneBytes,
    }));
    const memory = {
      name: 'memory',
      totalBytes: memoryBytes,
      doneBytes: Math.min(memoryBytes, applied.memory),
    };
    const { phase, elapsedMs } = this.clock;
    const streams = description === undefined ? [] : [...disks, memory];
    return {
      phase,
      elapsedMs,
      fraction: this.#fraction.look(
        phase,
        streams,
        this.#outcome !== undefined && wentWell.has(this.#outcome),
      ),
      lost: nothingLost,
      transferredBytes: this.#channel?.statistics.wireBytes ?? 0,
      streams,
      rounds: 0,
      throttle: 0,
      ...(this.#channel === undefined ? {} : { link: this.#channel.statistics.link }),
      ...compressionOf(this.#channel),
    };
  }

  #report(outcome: Outcome, error?: MigrationError): MigrationReport {
    this.clock.enter('done');
    this.#outcome = outcome;
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
      switchoverAttempts: this.#final?.attempt ?? 0,
      phases: this.clock.durations,
      bytes: {
        memory: counts.memory,
        disk: counts.bulk,
        unchanged: this.#final?.unchangedBytes ?? 0,
        mirror: counts.mirror,
        state: counts.state,
        wire: statistics?.wireBytes ?? 0,
      },
      rounds: 0,
      throttleMax: 0,
      throttledMs: 0,
      outages: this.outages,
      lost: nothingLost,
      guestWrites: { mirrored: 0, setBack: 0 },
      guestWriteHoldMs: 0,
      audit: this.#audit?.report ?? new AuditTally(this.#prepare?.audit ?? 'off').report,
      roundTripMs: statistics?.roundTripMs ?? 0,
      ...(statistics === undefined ? {} : { link: statistics.link }),
      ...compressionOf(this.#channel),
      ...this.#hooks.figures,
    };
  }
}

/** Before READY nothing else may be said, nor of another attempt. */
function inTurn(word: Word, attempt: number): MessageOf<'retreat'> {
  if (word.type === 'retreat' && word.attempt === attempt) return word;
  throw outOfTurn(word.type);
}

function outOfTurn(type: MessageType): MigrationError {
  return new MigrationError('protocol', `${type} out of turn`);
}

function endedBySource(reason: string): MigrationError {
  return new MigrationError('peer-failed', `the source ended the migration: ${reason}`);
}

function isTimeout(error: unknown): boolean {
  return error instanceof MigrationError && error.code === 'timeout';
}
