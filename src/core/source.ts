/** The source's end of a migration: `migrate()` reads as the list of phases. */
import type { Channel } from '../channel/channel.ts';
import { connectChannel } from '../channel/connect.ts';
import type { SendStream } from '../channel/send-stream.ts';
import {
  asMigrationError,
  errorCodes,
  type GuestState,
  MigrationError,
  messageOf,
  type Owner,
} from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { SourceVm, UnexpectedStop, VmDescription } from '../interfaces/hypervisor.ts';
import type { DiskMode, MigrationPolicy, MigrationReport, Outcome } from '../interfaces/migration.ts';
import type { OwnershipRegister } from '../interfaces/register.ts';
import type { Transport } from '../interfaces/transport.ts';
import { nodeEnvironment } from '../util/node-environment.ts';
import { raceAbort, throwIfAborted, withTimeout } from '../util/promises.ts';
import { diskBytesMax } from '../wire/limits.ts';
import {
  firstDiskStream,
  type MessageOf,
  type MessageType,
  memoryStream,
  type StreamEnd,
  stateStream,
} from '../wire/messages.ts';
import { commit } from './handover/commit.ts';
import { checkEpoch, highestEpoch, unsettledAttempt } from './handover/ownership.ts';
import { MemorySender } from './memory/memory-sender.ts';
import { PreCopy } from './memory/pre-copy.ts';
import { type Migration, MigrationEnd } from './migration.ts';
import { type ResolvedPolicy, resolvePolicy } from './policy.ts';
import type { ProgressSnapshot } from './progress-meter.ts';
import { StateSender } from './state-sender.ts';
import { DiskSender } from './storage/disk-sender.ts';
import { MirrorBuffer } from './storage/mirror-buffer.ts';
import { tidy } from './tidy.ts';

/** What {@link createSource} needs. */
export interface SourceOptions {
  /** The running VM, from a hypervisor's backend. */
  readonly vm: SourceVm;
  /** How to reach the destination; must be able to open connections. Stays the caller's to close. */
  readonly transport: Transport;
  /** Where this end claims ownership. */
  readonly register: OwnershipRegister;
  /** How it is to go. Every setting has a default. */
  readonly policy?: MigrationPolicy;
  /** Time and chance. Default: the process's own. */
  readonly environment?: Environment;
}

/** How long a seal that is under way is waited for before the guest is resumed. */
const sealMsMax = 1000;

/** VMs with a migration under way: a second one would resume a guest that the first has given away. */
const underWay = new WeakSet<SourceVm>();

/**
 * The source's end of one migration. Throws `invalid-argument` for a policy out of its ranges, and `unsupported` for a VM or a transport that
 * cannot do what this needs; nothing has been touched then.
 *
 * Whatever fails before commit leaves the guest running at the source, its taps removed and its throttle off. After commit the
 * destination decides who owns it.
 */
export function createSource(options: SourceOptions): Migration {
  return new Source(options);
}

class Source extends MigrationEnd {
  readonly #vm: SourceVm;
  readonly #transport: Transport;
  readonly #register: OwnershipRegister;
  readonly #policy: ResolvedPolicy;
  readonly #description: VmDescription;
  readonly #modes: ReadonlyMap<string, DiskMode>;
  readonly #digestKey: number;
  readonly #buffer: MirrorBuffer;
  readonly #disks: DiskSender[] = [];
  #channel: Channel | undefined;
  #memory: MemorySender | undefined;
  #memoryStream: SendStream | undefined;
  #state: StateSender | undefined;
  #preCopy: PreCopy | undefined;
  #epoch = 0;
  #wasRunning = true;
  /** How the guest was stopped, if it was: also when something else had ended the migration by then. */
  #stopKind: UnexpectedStop['kind'] | undefined;
  #stunStartMs: number | undefined;
  #sealing: Promise<void> | undefined;
  #downtimeMs = 0;
  /** The destination owns it: whatever fails from here on, it never runs here. */
  #gone = false;

  constructor(options: SourceOptions) {
    super(options.environment ?? nodeEnvironment);
    this.#vm = options.vm;
    this.#transport = options.transport;
    this.#register = options.register;
    this.#policy = resolvePolicy(options.policy);
    if (!this.#transport.capabilities.open) {
      throw new MigrationError('unsupported', "the source's transport cannot open connections");
    }
    this.#modes = diskModes(this.#vm, this.#policy);
    const disks = this.#vm.description.disks.filter(({ id }) => this.#modes.get(id) !== 'leave');
    this.#description = { ...this.#vm.description, disks };
    this.#digestKey = new DataView(this.environment.randomBytes(4).buffer).getUint32(0);
    this.#buffer = new MirrorBuffer(
      this.environment,
      this.#policy.mirrorBufferBytesMax,
      this.#policy.guestWriteHoldMsMax,
    );
  }

  protected async migrate(): Promise<MigrationReport> {
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
      await this.#connect();
      await this.#prepare();
      await this.#copyDisks();
      await this.#copyMemory();
      await this.#stun();
      await this.#verify();
      await this.#handover();
      const problems = await this.#release();
      return this.#report('completed', 'destination', leftBehind(problems));
    } catch (error) {
      return await this.#failed(asMigrationError(error, 'internal'));
    } finally {
      unlisten();
      underWay.delete(this.#vm);
    }
  }

  async #connect(): Promise<void> {
    this.enter('connect');
    throwIfAborted(this.signal);
    const channel = await connectChannel({
      transport: this.#transport,
      vmId: this.#description.vmId,
      environment: this.environment,
      connections: this.#policy.connections,
      windowBytesMax: this.#policy.windowBytesMax,
      rateBytesPerSecondMax: this.#policy.rateBytesPerSecondMax,
      limitMs: this.#policy.connectMsMax,
      signal: this.signal,
    });
    this.#channel = channel;
    // Whatever ends the migration ends what it sends: everybody who waits for room is told.
    this.signal.addEventListener('abort', () => channel.stopSending(this.signal.reason), { once: true });
    channel.signal.addEventListener('abort', () => this.stop(channel.signal.reason), { once: true });
    channel.mailbox.take('failed').then(
      ({ code, reason }) => this.stop(peerFailed(code, reason)),
      () => {},
    );
  }

  async #prepare(): Promise<void> {
    this.enter('prepare');
    const channel = this.#live();
    const { vmId } = this.#description;
    const claims = await raceAbort(this.#register.read(vmId), this.signal);
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
      disks: Object.fromEntries(this.#modes),
      highest,
      digestKey: this.#digestKey,
      decideMsMax: this.#policy.decideMsMax,
    });
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
  }

  #openStreams(channel: Channel): void {
    this.#state = new StateSender(channel.openSend(stateStream, this.#digestKey));
    this.#memoryStream = channel.openSend(memoryStream, this.#digestKey);
    this.#memory = new MemorySender(this.#vm.memory, this.#memoryStream);
    const copied = this.#description.disks.filter(({ id }) => this.#modes.get(id) === 'copy');
    for (const [index, { id }] of copied.entries()) {
      const disk = this.#vm.disks.find((candidate) => candidate.id === id);
      if (disk === undefined)
        throw new MigrationError('internal', `the VM describes a disk ${id} that it does not have`);
      this.#disks.push(
        new DiskSender({
          disk,
          stream: channel.openSend(firstDiskStream + index, this.#digestKey),
          buffer: this.#buffer,
          signal: this.signal,
          failed: (error) => this.stop(error),
        }),
      );
    }
  }

  /**
   * Taps every disk, then copies them; what the guest writes meanwhile is mirrored, until the very end. What it sets back is copied again
   * beside the memory.
   */
  async #copyDisks(): Promise<void> {
    this.#enterBoth('copyDisks');
    for (const disk of this.#disks) await disk.start();
    await Promise.all(this.#disks.map((disk) => disk.copiedOnce()));
  }

  /** Rounds of dirty pages until the rest fits the downtime, everything else that the stun would wait for counted. */
  async #copyMemory(): Promise<void> {
    this.#enterBoth('copyMemory');
    const channel = this.#live();
    const memory = this.#memory;
    if (memory === undefined) throw new MigrationError('internal', 'memory is copied before it was prepared');
    this.#preCopy = new PreCopy({
      vm: this.#vm,
      memory,
      channel,
      environment: this.environment,
      policy: this.#policy,
      signal: this.signal,
      diskRestBytes: () => this.#disks.reduce((sum, disk) => sum + disk.restBytes, 0),
      flushBothEnds: () => this.#flushBothEnds(channel),
      onRound: (round) => this.emit('round', round),
    });
    await this.#preCopy.run();
  }

  /** Makes durable what has been written so far, so that little is left to flush during the stun. Resolves to the destination's time for it, in ms. */
  async #flushBothEnds(channel: Channel): Promise<number> {
    throwIfAborted(this.signal);
    channel.send({ type: 'flush', token: 0 });
    // First: a flush may end the migration while it is called, and then there is nothing to take, and nobody to await the flushes.
    const answer = this.#take('flushed');
    const flushing = this.#disks.map(async ({ disk }) => disk.flush({ signal: this.signal }));
    const [flushed] = await Promise.all([answer, ...flushing]);
    return flushed.durationMs;
  }

  /** Pauses the guest and sends what is left: the last pages, the mirror's rest, the device state, and FINAL. All in one flight. */
  async #stun(): Promise<void> {
    this.#enterBoth('stun');
    const channel = this.#live();
    // A limit is for the sake of others; from here on every moment is the guest's.
    channel.endPacing();
    this.#wasRunning = this.#vm.runState() === 'running';
    this.#stunStartMs = this.environment.now();
    await this.#withinStun(async () => {
      await this.#vm.stun({ signal: this.signal });
      const disks = Promise.all(this.#disks.map((disk) => disk.finish()));
      disks.catch((error) => this.stop(asMigrationError(error, 'tap-gap')));
      await this.#sendLastRoundsAndState();
      await disks;
      channel.send({
        type: 'final',
        streams: this.#streamEnds(),
        stateBytes: this.#state?.bytes ?? 0,
        run: this.#wasRunning,
      });
    });
  }

  /** Saving state can dirty memory, so rounds go on until one that began after the state was complete is empty. */
  async #sendLastRoundsAndState(): Promise<void> {
    const options = { signal: this.signal };
    let saved = false;
    const saving = (async () => {
      await this.#state?.send(this.#vm.saveDeviceState(options));
      saved = true;
    })();
    saving.catch((error) => this.stop(asMigrationError(error, 'device-state')));
    for (;;) {
      const complete = saved;
      const bytes = (await this.#memory?.sendRound(options)) ?? 0;
      if (bytes > 0) continue;
      if (complete) return;
      await saving;
    }
  }

  #streamEnds(): StreamEnd[] {
    const streams = [this.#state?.stream, this.#memoryStream, ...this.#disks.map((disk) => disk.stream)];
    return streams.flatMap((stream) =>
      stream === undefined ? [] : [{ stream: stream.id, last: stream.last, digest: stream.digest }],
    );
  }

  /** The destination has applied, checked, flushed and loaded all of it. */
  async #verify(): Promise<void> {
    this.#enterBoth('verify');
    await this.#withinStun(() => this.#take('ready'));
  }

  /** From stun to READY there is a limit; past it the source takes back. */
  async #withinStun<T>(work: () => Promise<T>): Promise<T> {
    const { stunMsMax } = this.#policy;
    const elapsedMs = this.environment.now() - (this.#stunStartMs ?? 0);
    const cancel = this.environment.setTimer(Math.max(0, stunMsMax - elapsedMs), () => {
      this.stop(new MigrationError('stun-timeout', `from stun to READY took more than ${stunMsMax} ms`));
    });
    try {
      const result = await work();
      throwIfAborted(this.signal);
      return result;
    } finally {
      cancel();
    }
  }

  /** Seals the VM, gives it, and waits for what the destination decides. */
  async #handover(): Promise<void> {
    this.#enterBoth('handover');
    await this.#withinStun(() => {
      this.#sealing = this.#vm.seal();
      return raceAbort(this.#sealing, this.signal);
    });
    // This is the last moment at which an abort, a stopped guest or a lost link counts.
    const channel = this.#live();
    this.commit();
    await commit({
      channel,
      transport: this.#transport,
      environment: this.environment,
      register: this.#register,
      vmId: this.#description.vmId,
      epoch: this.#epoch,
      decideMsMax: this.#policy.decideMsMax,
    });
    this.#gone = true;
    this.#downtimeMs = this.environment.now() - (this.#stunStartMs ?? 0) - channel.statistics.roundTripMs / 2;
  }

  /** The destination runs it: let go of everything here. Resolves to what could not be let go of. */
  async #release(): Promise<readonly unknown[]> {
    this.#enterBoth('release');
    const channel = this.#live();
    channel.send({ type: 'bye' });
    const over = new MigrationError('invalid-state', 'the migration is over');
    return tidy(this.environment, [
      async () => this.#buffer.close(),
      ...this.#disks.map((disk) => () => disk.stop(over)),
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
      this.#downtimeMs = this.environment.now() - (this.#stunStartMs ?? 0);
      return this.#report(
        'failed',
        'source',
        describe(error, problems, { phase, guest: this.#guestNow(problems) }),
      );
    }
    // The guest stays as it is: sealed, until recover() knows the decision. Nothing of ours has to.
    await tidy(this.environment, [
      async () => this.#buffer.close(),
      ...this.#disks.map((disk) => () => disk.stop(error)),
      () => this.#closeChannel(error),
    ]);
    this.#downtimeMs = this.environment.now() - (this.#stunStartMs ?? 0);
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
    if (this.#stunStartMs !== undefined) this.#downtimeMs = this.environment.now() - this.#stunStartMs;
    return this.#report(
      'failed',
      'source',
      describe(error, problems, { phase, guest: this.#guestNow(problems) }),
    );
  }

  /** Resumes the guest first, then takes everything of ours away. Resolves to what could not be done. */
  #restoreSource(reason: MigrationError): Promise<readonly unknown[]> {
    const stunned = this.#stunStartMs !== undefined;
    return tidy(this.environment, [
      ...(stunned ? [() => this.#sealOver(), () => this.#vm.resume()] : []),
      async () => this.#preCopy?.releaseThrottle(),
      async () => this.#buffer.close(),
      ...this.#disks.map((disk) => () => disk.stop(reason)),
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
    if (!this.#wasRunning || this.#stopKind === 'paused') return 'paused';
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

  protected snapshot(): ProgressSnapshot {
    const disks = this.#disks.map(({ disk, doneBytes }) => ({
      name: disk.id,
      totalBytes: disk.sizeBytes,
      doneBytes,
    }));
    const totalBytes = this.#vm.memory.regions.reduce((sum, region) => sum + region.sizeBytes, 0);
    const doneBytes = Math.min(totalBytes, this.#memory?.offeredBytes ?? 0);
    return {
      phase: this.clock.phase,
      elapsedMs: this.clock.elapsedMs,
      transferredBytes: this.#transferredBytes(),
      streams: [...disks, { name: 'memory', totalBytes, doneBytes }],
      rounds: this.#memory?.rounds ?? 0,
      throttle: this.#preCopy?.throttle ?? 0,
      ...(this.#channel === undefined ? {} : { link: this.#channel.statistics.link }),
    };
  }

  #transferredBytes(): number {
    const disks = this.#disks.reduce((sum, disk) => sum + disk.bulkBytes + disk.mirrorBytes, 0);
    return disks + (this.#memory?.contentBytes ?? 0) + (this.#state?.bytes ?? 0);
  }

  #report(outcome: Outcome, owner: Owner, error?: MigrationError): MigrationReport {
    this.clock.enter('done');
    const statistics = this.#channel?.statistics;
    const sum = (of: (disk: DiskSender) => number) =>
      this.#disks.reduce((total, disk) => total + of(disk), 0);
    return {
      role: 'source',
      vmId: this.#description.vmId,
      epoch: this.#epoch,
      outcome,
      owner,
      ...(error === undefined ? {} : { error }),
      totalMs: this.clock.elapsedMs,
      downtimeMs: Math.max(0, this.#downtimeMs),
      phases: this.clock.durations,
      bytes: {
        memory: this.#memory?.contentBytes ?? 0,
        disk: sum((disk) => disk.bulkBytes),
        mirror: sum((disk) => disk.mirrorBytes),
        state: this.#state?.bytes ?? 0,
        wire: statistics?.wireBytes ?? 0,
      },
      rounds: this.#memory?.rounds ?? 0,
      throttleMax: this.#preCopy?.throttleMax ?? 0,
      guestWrites: {
        mirrored: sum((disk) => disk.guestWrites.mirrored),
        setBack: sum((disk) => disk.guestWrites.setBack),
      },
      guestWriteHoldMs: this.#buffer.longestHoldMs,
      roundTripMs: statistics?.roundTripMs ?? 0,
      ...(statistics === undefined ? {} : { link: statistics.link }),
    };
  }
}

/** What happens to each of the VM's disks. Throws `invalid-argument` for one that it does not have, `unsupported` for one that cannot be copied. */
function diskModes(vm: SourceVm, policy: ResolvedPolicy): ReadonlyMap<string, DiskMode> {
  const wanted = new Map(Object.entries(policy.disks));
  for (const id of wanted.keys()) {
    if (!vm.disks.some((disk) => disk.id === id)) {
      throw new MigrationError('invalid-argument', `policy.disks names ${id}, which the VM does not have`);
    }
  }
  const modes = new Map<string, DiskMode>();
  for (const disk of vm.disks) {
    const mode = wanted.get(disk.id) ?? (disk.readOnly ? 'shared' : 'copy');
    if (mode === 'copy' && !disk.readOnly && disk.tapCapability !== 'ordered') {
      throw new MigrationError(
        'unsupported',
        `the writes of disk ${disk.id} cannot be seen in order, so it cannot be copied`,
      );
    }
    if (mode === 'copy' && disk.sizeBytes > diskBytesMax) {
      throw new MigrationError('unsupported', `disk ${disk.id} is larger than ${diskBytesMax} bytes`);
    }
    modes.set(disk.id, mode);
  }
  return modes;
}

function guestStopped(stop: UnexpectedStop): MigrationError {
  const code = stop.kind === 'gone' ? 'hypervisor' : 'guest-stopped';
  return new MigrationError(code, stop.reason, { guest: stop.kind === 'paused' ? 'paused' : 'lost' });
}

function peerFailed(code: string, reason: string): MigrationError {
  const known = errorCodes.find((candidate) => candidate === code);
  return new MigrationError(known ?? 'peer-failed', `the destination failed: ${reason}`);
}

/** What a migration that completed could not let go of at the source, if anything. */
function leftBehind(problems: readonly unknown[]): MigrationError | undefined {
  if (problems.length === 0) return undefined;
  return new MigrationError('hypervisor', `the source could not be let go of: ${messages(problems)}`, {
    phase: 'release',
    owner: 'destination',
    guest: 'running',
    cause: problems[0],
  });
}

function messages(problems: readonly unknown[]): string {
  return problems.map(messageOf).join('; ');
}

/** The error as the caller gets it: with where things stand, and with what could not be put right. */
function describe(
  error: MigrationError,
  problems: readonly unknown[],
  details: { readonly phase: MigrationError['phase']; readonly guest: GuestState },
): MigrationError {
  const message = problems.length === 0 ? error.message : `${error.message}; and then: ${messages(problems)}`;
  return new MigrationError(error.code, message, {
    ...details,
    owner: 'source',
    cause: error.cause ?? problems[0],
  });
}
