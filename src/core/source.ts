/** The source's end of a migration: `migrate()` reads as the list of phases. */
import type { Channel } from '../channel/channel.ts';
import {
  type ConnectedChannel,
  type ConnectOptions,
  connectChannel,
  connectControl,
} from '../channel/connect.ts';
import { CreditPool } from '../channel/credit-pool.ts';
import type { SendStream } from '../channel/send-stream.ts';
import { secretOf, type Ticket } from '../channel/ticket.ts';
import { asMigrationError, type GuestState, MigrationError, type Owner } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { SourceVm, UnexpectedStop, VmDescription } from '../interfaces/hypervisor.ts';
import type { MemorySource } from '../interfaces/memory.ts';
import type {
  DiskMode,
  DowntimeParts,
  Estimate,
  EstimateOptions,
  GuestLoss,
  MigrationPolicy,
  MigrationReport,
  Outcome,
} from '../interfaces/migration.ts';
import type { Claim, OwnershipRegister } from '../interfaces/register.ts';
import type { Transport } from '../interfaces/transport.ts';
import { nodeEnvironment } from '../util/node-environment.ts';
import { delay, raceAbort, throwIfAborted, withTimeout } from '../util/promises.ts';
import {
  firstDiskStream,
  type MessageOf,
  type MessageType,
  memoryStream,
  stateStream,
} from '../wire/messages.ts';
import { AuditSender } from './audit/audit-sender.ts';
import { AuditTally } from './audit/audit-tally.ts';
import { RecentWrites } from './audit/recent-writes.ts';
import { compressAsAgreed, offeredCodecs } from './codecs.ts';
import { Deadline } from './deadline.ts';
import { diskModes } from './disk-modes.ts';
import { downtimeParts } from './downtime.ts';
import { stateBytesExpected } from './expected.ts';
import { GuestPace } from './guest-pace.ts';
import { GuestPauses } from './guest-pauses.ts';
import { ClaimTime } from './handover/claim-time.ts';
import { commit } from './handover/commit.ts';
import { checkEpoch, highestEpoch, unsettledAttempt } from './handover/ownership.ts';
import { inTime } from './in-time.ts';
import { MemorySender } from './memory/memory-sender.ts';
import { noMemory } from './memory/no-memory.ts';
import { PreCopy } from './memory/pre-copy.ts';
import { type Migration, MigrationEnd, wentWell } from './migration.ts';
import { peerFailed } from './peer-failed.ts';
import { type ResolvedPolicy, resolvePolicy } from './policy.ts';
import {
  checkMeasuringTime,
  estimateOf,
  type Measured,
  measureMigration,
  measuringMsDefault,
} from './prediction/estimate.ts';
import { Outlook } from './prediction/outlook.ts';
import type { ProgressSnapshot } from './progress-meter.ts';
import { describe, guestStopped, leftBehind } from './source-errors.ts';
import { type SourceParts, sourceFigures, sourceProgress } from './source-figures.ts';
import { StateSender } from './state-sender.ts';
import { BlockDigests } from './storage/block-digests.ts';
import { DiskSender } from './storage/disk-sender.ts';
import { GuestWatch } from './storage/guest-watch.ts';
import { mirrorBound } from './storage/mirror-bound.ts';
import { MirrorBuffer } from './storage/mirror-buffer.ts';
import { Switchover } from './switchover.ts';
import { tidy } from './tidy.ts';

/** What {@link createSource} needs. */
export interface SourceOptions {
  /** The running VM, from a hypervisor's backend. */
  readonly vm: SourceVm;
  /** How to reach the destination; must be able to open connections. Stays the caller's to close. */
  readonly transport: Transport;
  /** This migration's ticket, which the destination has too: {@link createTicket}. Default: none, and then neither end has to prove anything. */
  readonly ticket?: Ticket | string | undefined;
  /** Where this end claims ownership. */
  readonly register: OwnershipRegister;
  /** How it is to go. Every setting has a default. */
  readonly policy?: MigrationPolicy;
  /** Time and chance. Default: the process's own. */
  readonly environment?: Environment;
}

/** The source's end of a migration. */
export interface SourceMigration extends Migration {
  /**
   * As {@link Migration.run}, instead of it, up to READY: the VM is copied, its guest stunned, and the destination loads all of it. Then
   * the guest runs on here, and everything is taken away at both ends; nothing is claimed in a register. The report's `downtimeMs` says for how
   * long the guest would have stood still; its `outcome` is `rehearsed`, also at the destination, which need not know before.
   */
  rehearse(options?: CallOptions): Promise<MigrationReport>;
  /**
   * Predicts what {@link Migration.run} would come to, before it, as often as is wanted: guest, link and disks are looked at, for `durationMs` and up to two
   * seconds more. The guest runs on as it is, nothing is claimed, and the destination, which has to wait already, waits on for the migration that may follow. It cannot
   * know how fast the destination writes its disks, nor, with the policy's `seed`, what they hold already: it is as if they were empty, and fast. With
   * `compression` the codec is tried on samples of memory and disks; whether the destination has it is not known yet.
   *
   * Rejects with `invalid-state` once it was run, or while the VM is being migrated or estimated; `unsupported` for a VM that cannot be measured;
   * `invalid-argument` for a duration out of its range; `aborted`; and with whatever connecting, the hypervisor, a disk or the register fails with. Nothing has changed then.
   */
  estimate(options?: EstimateOptions): Promise<Estimate>;
}

/**
 * What all disks together may have of digests that are on their way, or wait for the bulk copy; each disk may have a mebibyte in any case, which stands for half a
 * gibibyte of content.
 */
const digestBytesMax = 16 << 20;
/** How long a destination may take to hand over disks that came alone (a file is renamed, an export opened), and its answer to come: it gives up after 60 s. */
const handOverMsMax = 90_000;
/** How long a seal that is under way is waited for before the guest is resumed. */
const sealMsMax = 1000;
/** How long a destination's reason may take to arrive, once a lane that was being dialled has ended. */
const lastWordMsMax = 1000;

/** VMs with a migration under way: a second one would resume a guest that the first has given away. */
const underWay = new WeakSet<SourceVm>();

/**
 * The source's end of one migration. Throws `invalid-argument` for a policy out of its ranges or a ticket that is none, and `unsupported` for a VM or a transport that
 * cannot do what this needs; nothing has been touched then.
 *
 * Whatever fails before commit leaves the guest running at the source, its taps removed and its throttle off. After commit the
 * destination decides who owns it.
 */
export function createSource(options: SourceOptions): SourceMigration {
  return new Source(options);
}

/** A source that tells what its estimate has seen, and is told what that of another one has. */
export interface MeasuringSource extends SourceMigration {
  readonly measured: Measured | undefined;
}

/** As {@link createSource}; its progress goes by what an estimate elsewhere has seen, if there was one. */
export function createMeasuringSource(options: SourceOptions, measured?: Measured): MeasuringSource {
  return new Source(options, measured);
}

/** What the register said when the destination was asked to prepare, and the highest epoch in it. */
interface AskedToPrepare {
  readonly claims: readonly Claim[];
  readonly highest: number;
}

class Source extends MigrationEnd implements MeasuringSource {
  readonly #vm: SourceVm;
  readonly #transport: Transport;
  readonly #secret: Uint8Array;
  readonly #register: OwnershipRegister;
  readonly #policy: ResolvedPolicy;
  readonly #description: VmDescription;
  readonly #modes: ReadonlyMap<string, DiskMode>;
  readonly #digestKey: number;
  readonly #buffer: MirrorBuffer;
  readonly #disks: DiskSender[] = [];
  readonly #outlook: Outlook;
  #channel: Channel | undefined;
  #memory: MemorySender | undefined;
  #memoryStream: SendStream | undefined;
  #state: StateSender | undefined;
  #audit: AuditSender | undefined;
  #preCopy: PreCopy | undefined;
  #pace: GuestPace | undefined;
  #epoch = 0;
  /** Keeps our register ready. */
  readonly #claims: ClaimTime;
  /** What a claim takes at the destination. */
  #claimMsThere: number | undefined;
  /** The last one. */
  #switchover: Switchover | undefined;
  /** How the guest was stopped, if it was: also when something else had ended the migration by then. */
  #stopKind: UnexpectedStop['kind'] | undefined;
  readonly #pauses = new GuestPauses(this.environment);
  #sealing: Promise<void> | undefined;
  #outcome: Outcome | undefined;
  #downtime: DowntimeParts | undefined;
  /** The destination owns it: whatever fails from here on, it never runs here. */
  #gone = false;

  constructor(options: SourceOptions, measured?: Measured) {
    super(options.environment ?? nodeEnvironment);
    this.#vm = options.vm;
    this.#transport = options.transport;
    this.#secret = secretOf(options.ticket);
    this.#register = options.register;
    this.#claims = new ClaimTime(options.register, this.environment);
    this.#policy = resolvePolicy(options.policy);
    if (!this.#transport.capabilities.open) {
      throw new MigrationError('unsupported', "the source's transport cannot open connections");
    }
    this.#modes = diskModes(this.#vm, this.#policy);
    this.#description = movedPart(this.#vm.description, this.#modes, this.#policy);
    this.#outlook = new Outlook(this.environment, this.#policyAsIs, {
      memoryBytes: this.#memoryBytes,
      auditedBytes: this.#vm.capabilities.auditMemory ? this.#memoryBytes : 0,
    });
    if (measured !== undefined) this.#outlook.measured = measured;
    this.#digestKey = new DataView(this.environment.randomBytes(4).buffer).getUint32(0);
    this.#buffer = new MirrorBuffer(
      this.environment,
      mirrorBound({
        bytesMax: this.#policy.mirrorBufferBytesMax,
        downtimeMsMax: this.#policy.downtimeMsMax,
      }),
    );
  }

  rehearse(options: CallOptions = {}): Promise<MigrationReport> {
    return this.once(options, () => this.#rehearse());
  }

  async estimate({ durationMs = measuringMsDefault, signal }: EstimateOptions = {}): Promise<Estimate> {
    checkMeasuringTime(durationMs);
    throwIfAborted(signal);
    if (this.started || underWay.has(this.#vm)) {
      throw new MigrationError('invalid-state', 'this VM is being migrated, or was, or is looked at already');
    }
    underWay.add(this.#vm);
    try {
      const measured = await measureMigration({
        vm: this.#vm,
        disks: this.#vm.disks.filter(({ id }) => this.#modes.get(id) === 'copy'),
        register: this.#register,
        environment: this.environment,
        connect: (call) => connectChannel(this.#connections(call)),
        durationMs,
        policy: this.#policy,
        signal,
      });
      this.#outlook.measured = measured;
      return estimateOf(measured, this.#policyAsIs);
    } finally {
      underWay.delete(this.#vm);
    }
  }

  get measured(): Measured | undefined {
    return this.#outlook.measured;
  }

  /** With no throttle where the guest cannot be slowed. */
  get #policyAsIs(): ResolvedPolicy {
    return this.#canThrottle ? this.#policy : { ...this.#policy, throttleMax: 0 };
  }

  protected migrate(): Promise<MigrationReport> {
    return this.#alone(async () => {
      const switchover = await this.#untilReady(!this.#disksAlone);
      if (this.#disksAlone) return this.#handDisksOver();
      await this.#handover(switchover);
      const problems = await this.#release();
      return this.#report('completed', 'destination', leftBehind(problems));
    });
  }

  #rehearse(): Promise<MigrationReport> {
    return this.#alone(async () => {
      return this.#endRehearsal(await this.#untilReady(false));
    });
  }

  get #disksAlone(): boolean {
    return this.#policy.memory === 'none';
  }

  /** FINAL is GO as well. */
  get #inOneFlight(): boolean {
    return this.#policy.handover === 'one-flight';
  }

  get #canThrottle(): boolean {
    const { throttle, throttleAlone } = this.#vm.capabilities;
    return this.#disksAlone ? throttleAlone : throttle;
  }

  get #memorySource(): MemorySource {
    return this.#disksAlone ? noMemory : this.#vm.memory;
  }

  get #memoryBytes(): number {
    return this.#memorySource.regions.reduce((sum, { sizeBytes }) => sum + sizeBytes, 0);
  }

  /** Resolves to the switchover that went well. */
  async #untilReady(gives: boolean): Promise<Switchover> {
    const deadline = this.#newDeadline();
    try {
      const { channel, lanes } = await this.#connect();
      // The destination prepares while the lanes are dialled.
      const [asked] = await Promise.all([this.#askToPrepare(channel, gives), this.#allLanes(lanes)]);
      this.#outlast(channel);
      await this.#prepare(channel, asked);
      await this.#copyDisks();
      for (;;) {
        await this.#copyMemory(deadline);
        const switchover = await this.#switchOver(gives);
        if (switchover !== undefined) return switchover;
      }
    } finally {
      deadline.stop();
      this.#pace?.stop();
    }
  }

  #newDeadline(): Deadline {
    const sent = () => this.#memory?.offeredBytes ?? 0;
    const size = this.#memoryBytes;
    return new Deadline({
      environment: this.environment,
      policy: this.#policy,
      phase: () => this.clock.phase,
      unsentBytes: () => this.#diskRestBytes + Math.max(0, size - sent()),
      bytesPerSecond: () => this.#channel?.bytesPerSecond,
      onOver: (error) => this.stop(error),
    });
  }

  get #diskRestBytes(): number {
    return this.#disks.reduce((sum, disk) => sum + disk.restBytes, 0);
  }

  /** One migration of a VM at a time; and whatever it throws, the VM is where the report says that it is. */
  async #alone(migrate: () => Promise<MigrationReport>): Promise<MigrationReport> {
    if (underWay.has(this.#vm)) {
      const error = new MigrationError('invalid-state', 'another migration of this VM is under way');
      return this.#report('failed', 'source', error);
    }
    underWay.add(this.#vm);
    const unlisten = this.#vm.onUnexpectedStop((stop) => {
      this.#stopKind = stop.kind;
      this.stop(guestStopped(stop));
    });
    try {
      return await migrate();
    } catch (error) {
      return await this.#failed(asMigrationError(error, 'internal'));
    } finally {
      unlisten();
      await this.#claims.settled();
      underWay.delete(this.#vm);
    }
  }

  #connections(signal: AbortSignal): ConnectOptions {
    return {
      transport: this.#transport,
      vmId: this.#description.vmId,
      secret: this.#secret,
      environment: this.environment,
      connections: this.#policy.connections,
      windowBytesMax: this.#policy.windowBytesMax,
      rateBytesPerSecondMax: this.#policy.rateBytesPerSecondMax,
      limitMs: this.#policy.connectMsMax,
      signal,
    };
  }

  /** Resolves when control is there. */
  async #connect(): Promise<ConnectedChannel> {
    this.enter('connect');
    throwIfAborted(this.signal);
    const connected = await connectControl(this.#connections(this.signal));
    const { channel } = connected;
    this.#channel = channel;
    // Whatever ends the migration ends what it sends: everybody who waits for room is told.
    this.signal.addEventListener('abort', () => channel.stopSending(this.signal.reason), { once: true });
    channel.signal.addEventListener('abort', () => this.stop(channel.signal.reason), { once: true });
    channel.mailbox.take('failed').then(
      ({ code, reason }) => this.stop(peerFailed(code, reason)),
      () => {},
    );
    return connected;
  }

  /** A destination that fails ends its lanes, and what it says of that over control may arrive after their ends: it is waited for. */
  async #allLanes(lanes: Promise<void>): Promise<void> {
    try {
      await lanes;
    } catch (error) {
      await delay(this.environment, lastWordMsMax, this.signal);
      throw error;
    }
  }

  #outlast(channel: Channel): void {
    channel.outlast({
      silenceMsMax: this.#policy.silenceMsMax,
      outageMsMax: this.#policy.outageMsMax,
      onCut: () => this.#linkGone(),
      onMended: (outage) => {
        this.#buffer.holds(!this.#pauses.isOn);
        this.mended(outage);
      },
    });
  }

  /** Nothing can be sent, so there is nothing for the guest to wait for. */
  #linkGone(): void {
    this.#buffer.holds(false);
    // A guest that stands still has no throttle that could be taken off; should it run on, that is seen to then.
    if (this.#pauses.isOn) return;
    this.#preCopy?.releaseThrottle().catch((error) => this.stop(asMigrationError(error, 'hypervisor')));
  }

  async #askToPrepare(channel: Channel, gives: boolean): Promise<AskedToPrepare> {
    const { vmId } = this.#description;
    const claims = await raceAbort(this.#register.read(vmId), this.signal);
    this.#readyRegister();
    const unsettled = unsettledAttempt(claims);
    if (unsettled > 0) {
      throw new MigrationError(
        'owner-undecided',
        `attempt ${unsettled} gave ${vmId} away, and what became of it is not known here: settle it with recover()`,
        { owner: 'undecided' },
      );
    }
    const highest = highestEpoch(claims);
    this.#openStreams(channel);
    channel.send({
      type: 'prepare',
      vm: this.#description,
      disks: Object.fromEntries(this.#description.disks.map(({ id }) => [id, this.#modes.get(id) ?? 'copy'])),
      seed: this.#policy.seed,
      memory: this.#policy.memory,
      handover: gives && this.#inOneFlight ? 'one-flight' : 'confirmed',
      audit: this.#policy.audit,
      highest,
      digestKey: this.#digestKey,
      decideMsMax: this.#policy.decideMsMax,
      silenceMsMax: this.#policy.silenceMsMax,
      outageMsMax: this.#policy.outageMsMax,
      ...offeredCodecs(this.environment, this.#policy),
    });
    return { claims, highest };
  }

  async #prepare(channel: Channel, { claims, highest }: AskedToPrepare): Promise<void> {
    this.enter('prepare');
    const prepared = await withTimeout(
      this.environment,
      this.#policy.connectMsMax,
      this.#take('prepared'),
      () => new MigrationError('timeout', 'the destination did not prepare in time'),
    );
    if (prepared.epoch <= highest) {
      throw new MigrationError('protocol', `the destination names attempt ${prepared.epoch}, which is over`);
    }
    checkEpoch(prepared.epoch, claims);
    this.#epoch = prepared.epoch;
    compressAsAgreed(channel, this.environment, this.#policy, prepared);
    this.#takeDigests(channel);
  }

  /** Where anything is going to be claimed. */
  #readyRegister(): void {
    if (!this.#disksAlone) this.#claims.look(this.#description.vmId);
  }

  get #stateBytesExpected(): number {
    return stateBytesExpected(this.#vm, this.#state?.mostBytes);
  }

  /** What the claims of both ends take, in ms. The destination's is taken to be like ours until it tells. */
  get #claimsMs(): number {
    const { ms = 0 } = this.#claims;
    return ms + (this.#claimMsThere ?? ms);
  }

  #openStreams(channel: Channel): void {
    this.#state = new StateSender(channel.openSend(stateStream, this.#digestKey));
    this.#memoryStream = channel.openSend(memoryStream, this.#digestKey);
    const recent = { memory: new RecentWrites(), disks: new RecentWrites() };
    this.#memory = new MemorySender(this.#memorySource, this.#memoryStream, recent.memory);
    const copied = this.#description.disks.filter(({ id }) => this.#modes.get(id) === 'copy');
    const watch = new GuestWatch(this.environment);
    for (const [index, { id }] of copied.entries()) {
      const disk = this.#vm.disks.find((candidate) => candidate.id === id);
      if (disk === undefined)
        throw new MigrationError('internal', `the VM describes a disk ${id} that it does not have`);
      this.#disks.push(
        new DiskSender({
          disk,
          stream: channel.openSend(firstDiskStream + index, this.#digestKey),
          buffer: this.#buffer,
          digests:
            this.#policy.seed === 'compare'
              ? new BlockDigests(disk.sizeBytes, (error) => this.stop(error))
              : undefined,
          environment: this.environment,
          watch,
          recent: recent.disks,
          signal: this.signal,
          failed: (error) => this.stop(error),
        }),
      );
    }
    this.#audit = this.#newAudit(channel, [recent.memory, recent.disks]);
  }

  /** What this end says of what it holds. The streams are open. */
  #newAudit(channel: Channel, recent: readonly RecentWrites[]): AuditSender {
    return new AuditSender({
      mode: this.#policy.audit,
      vm: this.#vm,
      memory: this.#memorySource,
      disks: this.#disks,
      recent,
      channel,
      environment: this.environment,
    });
  }

  /** Lets the destination say what is on its disks: not before it can, which its answer says. */
  #takeDigests(channel: Channel): void {
    const credit = new CreditPool({
      totalBytes: digestBytesMax,
      streams: this.#disks.length,
      now: () => this.environment.now(),
      roundTripMs: () => channel.roundTripMs,
    });
    for (const { digests, stream } of this.#disks) {
      digests?.attach(channel.openReceive(stream.id, this.#digestKey, credit.open(), digests.arrived));
    }
  }

  /**
   * Taps every disk, then copies them; what the guest writes meanwhile is mirrored, until the very end. What it sets back is copied again
   * beside the memory.
   */
  async #copyDisks(): Promise<void> {
    this.#enterBoth('copyDisks');
    this.#watchPace(this.#live());
    for (const disk of this.#disks) await disk.start();
    await Promise.all(this.#disks.map((disk) => disk.copiedOnce()));
    // What was written meanwhile is copied beside the memory.
    await this.#takeDirtyExtents();
  }

  #watchPace(channel: Channel): void {
    this.#pace = new GuestPace({
      disks: this.#disks,
      buffer: this.#buffer,
      channel,
      environment: this.environment,
      policy: this.#policy,
      canThrottle: this.#canThrottle,
      throttle: () => this.#preCopy?.throttle ?? 0,
      onWarning: (warning) => this.emit('warning', warning),
      failed: (error) => this.stop(error),
    });
    this.#pace.start();
  }

  /** Rounds of dirty pages until the rest fits the downtime, everything else that the stun would wait for counted. */
  async #copyMemory(deadline: Deadline): Promise<void> {
    this.#enterBoth('copyMemory');
    deadline.look();
    this.#readyRegister();
    const channel = this.#live();
    const [memory, pace] = [this.#memory, this.#pace];
    if (memory === undefined || pace === undefined)
      throw new MigrationError('internal', 'memory is copied before it was prepared');
    this.#preCopy ??= new PreCopy({
      vm: this.#vm,
      memory,
      channel,
      environment: this.environment,
      policy: this.#policy,
      signal: this.signal,
      pace,
      takeDirtyExtents: () => this.#takeDirtyExtents(),
      diskRestBytes: () => this.#diskRestBytes,
      flushBothEnds: () => this.#flushBothEnds(channel),
      claimsMs: () => this.#claimsMs,
      stateBytes: () => this.#stateBytesExpected,
      timeLeftMs: () => deadline.leftMs,
      onRound: (round) => {
        this.#outlook.round(round, this.#preCopy?.throttle ?? 0);
        if (!this.#disksAlone) this.emit('round', round);
      },
    });
    await this.#preCopy.run();
  }

  async #takeDirtyExtents(): Promise<void> {
    const { signal } = this;
    await Promise.all(this.#disks.map((disk) => disk.takeDirty({ signal }))).catch((error) => {
      throw asMigrationError(error, 'tap-gap');
    });
  }

  /** Makes durable what has been written so far, so that little is left to flush during the stun. Resolves to the destination's time for it, in ms. */
  async #flushBothEnds(channel: Channel): Promise<number> {
    throwIfAborted(this.signal);
    channel.send({ type: 'flush', token: 0 });
    // First: a flush may end the migration while it is called, and then there is nothing to take, and nobody to await the flushes.
    const answer = this.#take('flushed');
    this.#readyRegister();
    const flushing = this.#disks.map(async ({ disk }) => disk.flush({ signal: this.signal }));
    const [flushed] = await Promise.all([answer, ...flushing]);
    this.#claimMsThere = flushed.claimMs;
    return flushed.durationMs;
  }

  /** From the stun to READY, and the seal. Undefined if that failed, and the guest runs on: then it is memory's turn again. */
  async #switchOver(gives: boolean): Promise<Switchover | undefined> {
    this.#enterBoth('stun');
    // A limit is for the sake of others; from here on every moment is the guest's.
    this.#live().beginFlight();
    // What is in flight is taken in: a guest that stands still cannot write more.
    this.#buffer.holds(false);
    const switchover = this.#nextSwitchover();
    const inOneFlight = gives && this.#inOneFlight;
    try {
      await switchover.stun();
      if (!inOneFlight) switchover.sendFinal();
      await switchover.audit();
      if (inOneFlight) switchover.watch.lap('verify');
      else {
        this.#enterBoth('verify');
        await switchover.verify();
      }
      if (gives) await this.#seal(switchover);
      return switchover;
    } catch (error) {
      await this.#retreat(switchover, asMigrationError(error, 'internal'));
      return undefined;
    }
  }

  #nextSwitchover(): Switchover {
    const [state, memory, stream, audit] = [this.#state, this.#memory, this.#memoryStream, this.#audit];
    if (state === undefined || memory === undefined || stream === undefined || audit === undefined) {
      throw new MigrationError('internal', 'the guest is stunned before the streams were opened');
    }
    this.#switchover = new Switchover({
      attempt: (this.#switchover?.attempt ?? 0) + 1,
      vm: this.#vm,
      disksAlone: this.#disksAlone,
      state,
      memory,
      disks: this.#disks,
      streams: [state.stream, stream, ...this.#disks.map((disk) => disk.stream)],
      channel: this.#live(),
      audit,
      environment: this.environment,
      stunMsMax: this.#policy.stunMsMax,
      onStunned: (sinceMs) => this.#pauses.begin(sinceMs),
      signal: this.signal,
    });
    return this.#switchover;
  }

  /** The guest runs on, and the migration with it, as before the stun. Throws what ends the migration, if this does. */
  async #retreat(switchover: Switchover, error: MigrationError): Promise<void> {
    const { attempt } = switchover;
    throwIfAborted(this.signal);
    if (attempt >= this.#policy.switchoverAttemptsMax) throw error;
    if (!(await switchover.mayBeFollowed(error))) throw error;
    throwIfAborted(this.signal);
    // The data first: what the guest writes from its first moment on is seen.
    for (const disk of this.#disks) disk.goOn();
    const again = async () => this.#audit?.sendAgain({ signal: this.signal });
    const problems = await tidy(this.environment, [again, () => this.#vm.resume()]);
    if (problems.length > 0) throw error;
    this.#pauses.ranOn();
    const channel = this.#live();
    this.#buffer.holds(!channel.isCut);
    const { code, message } = error;
    const stateLast = this.#state?.stream.last ?? 0;
    channel.send({ type: 'retreat', attempt, stateLast, code, reason: message });
    this.#state?.startOver();
    channel.endFlight();
    const where = { phase: this.clock.phase, owner: 'source', guest: this.#guestNow([]) } as const;
    this.emit('retreat', { attempt, error: error.with(where), stunnedMs: this.#pauses.lastMs });
    await this.#preCopy?.releaseThrottle();
  }

  /** From here on nothing but our own word runs the guest. While the link is gone it is not given. */
  async #seal(switchover: Switchover): Promise<void> {
    this.#enterBoth('handover');
    await switchover.within(async (signal) => {
      this.#sealing = this.#vm.seal();
      await this.#sealing;
      // Most links that break are there again in a moment; the limit of the stun is that of this too.
      await raceAbort(this.#live().linked(), signal);
      switchover.watch.lap('seal');
    });
  }

  /** Gives the VM, and waits for what the destination decides. */
  async #handover(switchover: Switchover): Promise<void> {
    // This is the last moment at which an abort, a stopped guest or a lost link counts.
    const channel = this.#live();
    const [epoch, { watch }] = [this.#epoch, switchover];
    this.commit();
    await commit({
      channel,
      transport: this.#transport,
      secret: this.#secret,
      environment: this.environment,
      register: this.#register,
      vmId: this.#description.vmId,
      epoch,
      give: () => (this.#inOneFlight ? switchover.sendFinal(epoch) : channel.send({ type: 'go', epoch })),
      watch,
      // In one flight the destination has yet to verify and load all of it, for which a stun has its limit.
      decideMsMax: this.#policy.decideMsMax + (this.#inOneFlight ? this.#policy.stunMsMax : 0),
    });
    this.#gone = true;
    this.#stoodStill(switchover, -channel.statistics.roundTripMs / 2);
  }

  /** The guest stood still until now, and for so much longer, or less: a word that was on its way, or is not said. */
  #stoodStill({ watch }: Switchover, flightMs: number): void {
    watch.lessFlight(-flightMs);
    this.#pauses.end(flightMs);
    this.#downtime = downtimeParts(watch.durations, Math.abs(flightMs));
  }

  /**
   * The destination has the disks as they are now, and applies nothing that comes later; so the guest may run on before they are handed over, and if that
   * fails it is only that nobody knows whether they were.
   */
  async #handDisksOver(): Promise<MigrationReport> {
    this.#enterBoth('handover');
    const channel = this.#live();
    channel.send({ type: 'copied' });
    const answer = this.#take('handedOver');
    answer.catch(() => {});
    const [problem] = await tidy(this.environment, [() => this.#vm.resume()]);
    if (problem !== undefined)
      throw asMigrationError(problem, 'hypervisor', 'the guest could not be resumed');
    this.#pauses.ranOn();
    const over = new MigrationError('invalid-state', 'the disks are copied');
    const problems = await tidy(this.environment, [
      async () => this.#preCopy?.releaseThrottle(),
      () => this.#stopDisks(over),
    ]);
    const late = new MigrationError('timeout', 'the destination did not hand the disks over in time');
    await inTime(this.environment, channel, handOverMsMax, answer, late);
    channel.send({ type: 'bye' });
    const left = leftBehind([...problems, ...(await this.#restoreSource(over))], 'source');
    return this.#report('copied', 'source', left);
  }

  /** All at once: what one tap holds may keep the hypervisor from taking away another. Nothing of them is sent from the call on. */
  async #stopDisks(reason: MigrationError): Promise<void> {
    const stopping = this.#disks.map((disk) => disk.stop(reason));
    this.#channel?.stopSending(reason);
    for (const stopped of await Promise.allSettled(stopping)) {
      if (stopped.status === 'rejected') throw stopped.reason;
    }
  }

  /** All is known that was to be: the guest runs on here, as if nothing had been. */
  async #endRehearsal(switchover: Switchover): Promise<MigrationReport> {
    const { phase } = this.clock;
    const channel = this.#live();
    this.#stoodStill(switchover, channel.statistics.roundTripMs / 2);
    channel.send({ type: 'rehearsed' });
    const over = new MigrationError('invalid-state', 'the rehearsal is over');
    const problems = await this.#restoreSource(over);
    if (problems.length === 0) return this.#report('rehearsed', 'source');
    const error = new MigrationError('hypervisor', 'the rehearsal went well');
    return this.#report(
      'failed',
      'source',
      describe(error, problems, { phase, guest: this.#guestNow(problems) }),
    );
  }

  /** The destination runs it: let go of everything here. Resolves to what could not be let go of. */
  async #release(): Promise<readonly unknown[]> {
    this.#enterBoth('release');
    const channel = this.#live();
    channel.send({ type: 'bye' });
    const over = new MigrationError('invalid-state', 'the migration is over');
    return tidy(this.environment, [
      async () => this.#buffer.close(),
      () => this.#stopDisks(over),
      () => this.#vm.memory.stop(),
      () => this.#vm.release(),
      () => this.#closeChannel(),
    ]);
  }

  async #failed(error: MigrationError): Promise<MigrationReport> {
    if (!this.committed) return this.#rollBack(error);
    const { phase } = this.clock;
    if (this.#gone) {
      return this.#report('completed', 'destination', error.with({ phase, owner: 'destination' }));
    }
    // Nothing but the destination's word that it declined, and never will run it, lets the guest run here again.
    if (error.code === 'declined') {
      this.#channel?.send({ type: 'bye' });
      const problems = await this.#restoreSource(error);
      this.#pauses.end();
      return this.#report(
        'failed',
        'source',
        describe(error, problems, { phase, guest: this.#guestNow(problems) }),
      );
    }
    // The guest stays as it is: sealed, until recover() knows the decision. Nothing of ours has to.
    await tidy(this.environment, [
      async () => this.#buffer.close(),
      () => this.#stopDisks(error),
      () => this.#closeChannel(error),
    ]);
    this.#pauses.end();
    return this.#report('undecided', 'undecided', error.with({ phase, guest: 'paused', owner: 'undecided' }));
  }

  /** Before commit: the guest runs on here, as if nothing had been. */
  async #rollBack(thrown: MigrationError): Promise<MigrationReport> {
    const { phase } = this.clock;
    // What ended the migration may have surfaced as a consequence elsewhere: the first reason counts.
    this.stop(thrown);
    const error: MigrationError = this.signal.reason;
    if (error.owner === 'undecided' && this.#epoch === 0) {
      this.#channel?.send({ type: 'abort', code: error.code, reason: error.message });
      await tidy(this.environment, [() => this.#closeChannel(error)]);
      return this.#report('undecided', 'undecided', error.with({ phase }));
    }
    const { code, message } = error;
    this.#channel?.send({ type: 'abort', code, reason: message });
    this.#channel?.send({ type: 'bye' });
    const problems = await this.#restoreSource(error);
    this.#pauses.end();
    return this.#report(
      'failed',
      'source',
      describe(error, problems, { phase, guest: this.#guestNow(problems) }),
    );
  }

  /** Resumes the guest first, then takes everything of ours away. Resolves to what could not be done. */
  #restoreSource(reason: MigrationError): Promise<readonly unknown[]> {
    return tidy(this.environment, [
      ...(this.#pauses.isOn ? [() => this.#sealOver(), () => this.#vm.resume()] : []),
      async () => this.#preCopy?.releaseThrottle(),
      async () => this.#buffer.close(),
      () => this.#stopDisks(reason),
      () => this.#vm.memory.stop(),
      () => this.#vm.detach(),
      () => this.#closeChannel(reason),
    ]);
  }

  /** A seal that is under way would seal what runs again. One that hangs must not keep the guest from running. */
  async #sealOver(): Promise<void> {
    const late = () => new MigrationError('timeout', 'the seal hangs');
    if (this.#sealing === undefined) return;
    await withTimeout(this.environment, sealMsMax, this.#sealing, late).catch(() => {});
  }

  #guestNow(problems: readonly unknown[]): GuestState {
    if (this.#stopKind === 'gone' || this.#stopKind === 'shutdown') return 'lost';
    if (this.#switchover?.wasRunning === false || this.#stopKind === 'paused') return 'paused';
    if (problems.length > 0) return 'unknown';
    return this.#vm.runState() === 'running' ? 'running' : 'paused';
  }

  /** Ends the connections: what was said is sent first, if the peer takes it within a second. */
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

  #live(): Channel {
    throwIfAborted(this.signal);
    if (this.#channel === undefined) throw new MigrationError('internal', 'there is no channel yet');
    return this.#channel;
  }

  #take<T extends MessageType>(...types: readonly T[]): Promise<MessageOf<T>> {
    return raceAbort(this.#live().mailbox.take(...types), this.signal);
  }

  #enterBoth(phase: Parameters<MigrationEnd['enter']>[0]): void {
    throwIfAborted(this.signal);
    this.enter(phase);
    this.#channel?.send({ type: 'phase', phase });
  }

  get #parts(): SourceParts {
    return {
      source: this.#memorySource,
      disks: this.#disks,
      memory: this.#memory,
      state: this.#state,
      stateBytesExpected: this.#stateBytesExpected,
      preCopy: this.#preCopy,
      buffer: this.#buffer,
      channel: this.#channel,
      audit: this.#audit?.report ?? new AuditTally(this.#policy.audit).report,
    };
  }

  protected snapshot(): ProgressSnapshot {
    const { phase, elapsedMs } = this.clock;
    const outlook = this.#outlook.look({
      phase,
      elapsedMs,
      stunnedMs: this.#pauses.nowMs,
      downtimeMs: this.#gone ? this.#pauses.lastMs : undefined,
      parts: this.#parts,
      claimMs: this.#claimsMs / 2,
      done: this.#outcome !== undefined && wentWell.has(this.#outcome),
    });
    return { phase, elapsedMs, ...sourceProgress(this.#parts), lost: this.#lost, ...outlook };
  }

  get #lost(): GuestLoss {
    return {
      throttleMs: this.#preCopy?.throttleLostMs ?? 0,
      holdMs: this.#buffer.heldMs,
      pauseMs: this.#pauses.allMs,
    };
  }

  #report(outcome: Outcome, owner: Owner, error?: MigrationError): MigrationReport {
    this.clock.enter('done');
    this.#outcome = outcome;
    return {
      role: 'source',
      vmId: this.#description.vmId,
      epoch: this.#epoch,
      outcome,
      owner,
      ...(error === undefined ? {} : { error }),
      totalMs: this.clock.elapsedMs,
      downtimeMs: this.#pauses.lastMs,
      ...(this.#downtime === undefined ? {} : { downtime: this.#downtime }),
      switchoverAttempts: this.#switchover?.attempt ?? 0,
      phases: this.clock.durations,
      outages: this.outages,
      lost: this.#lost,
      ...sourceFigures(this.#parts),
    };
  }
}

/** What the destination is told of the VM. */
function movedPart(
  vm: VmDescription,
  modes: ReadonlyMap<string, DiskMode>,
  { memory }: ResolvedPolicy,
): VmDescription {
  if (memory === 'copy') return { ...vm, disks: vm.disks.filter(({ id }) => modes.get(id) !== 'leave') };
  const disks = vm.disks.filter(({ id }) => modes.get(id) === 'copy');
  if (disks.length === 0) {
    throw new MigrationError(
      'invalid-argument',
      'with policy.memory none there is nothing to copy: no disk is',
    );
  }
  return { ...vm, memory: [], disks };
}
