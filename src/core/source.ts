/** The source's end of a migration: `migrate()` reads as the list of phases. */
import type { Channel } from '../channel/channel.ts';
import { connectChannel } from '../channel/connect.ts';
import type { SendStream } from '../channel/send-stream.ts';
import { asMigrationError, errorCodes, type GuestState, MigrationError, type Owner } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { SourceVm, UnexpectedStop, VmDescription } from '../interfaces/hypervisor.ts';
import type { DiskMode, MigrationPolicy, MigrationReport, Outcome } from '../interfaces/migration.ts';
import type { OwnershipRegister } from '../interfaces/register.ts';
import type { Transport } from '../interfaces/transport.ts';
import { nodeEnvironment } from '../util/node-environment.ts';
import { raceAbort, throwIfAborted, withTimeout } from '../util/promises.ts';
import {
  firstDiskStream,
  type MessageOf,
  type MessageType,
  memoryStream,
  type StreamEnd,
  stateStream,
} from '../wire/messages.ts';
import { commit } from './handover/commit.ts';
import { highestEpoch } from './handover/ownership.ts';
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
  readonly #modes: Readonly<Record<string, DiskMode>>;
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
  #stunStartMs: number | undefined;
  #downtimeMs = 0;
  #committed = false;

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
    const disks = this.#vm.description.disks.filter(({ id }) => this.#modes[id] !== 'leave');
    this.#description = { ...this.#vm.description, disks };
    this.#digestKey = new DataView(this.environment.randomBytes(4).buffer).getUint32(0);
    this.#buffer = new MirrorBuffer(
      this.environment,
      this.#policy.mirrorBufferBytesMax,
      this.#policy.guestWriteHoldMsMax,
    );
  }

  protected async migrate(): Promise<MigrationReport> {
    const unlisten = this.#vm.onUnexpectedStop((stop) => this.stop(guestStopped(stop)));
    try {
      await this.#connect();
      await this.#prepare();
      await this.#copyDisks();
      await this.#copyMemory();
      await this.#stun();
      await this.#verify();
      await this.#handover();
      await this.#release();
      return this.#report('completed', 'destination');
    } catch (error) {
      return await this.#failed(asMigrationError(error, 'internal'));
    } finally {
      unlisten();
    }
  }

  async #connect(): Promise<void> {
    this.enter('connect');
    throwIfAborted(this.signal);
    const channel = await connectChannel({
      transport: this.#transport,
      environment: this.environment,
      connections: this.#policy.connections,
      windowBytesMax: this.#policy.windowBytesMax,
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
    const highest = highestEpoch(await this.#register.read(vmId));
    this.#wasRunning = this.#vm.runState() === 'running';
    this.#openStreams(channel);
    channel.send({
      type: 'prepare',
      vm: this.#description,
      disks: this.#modes,
      run: this.#wasRunning,
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
    this.#epoch = prepared.epoch;
  }

  #openStreams(channel: Channel): void {
    this.#state = new StateSender(channel.openSend(stateStream, this.#digestKey));
    this.#memoryStream = channel.openSend(memoryStream, this.#digestKey);
    this.#memory = new MemorySender(this.#vm.memory, this.#memoryStream);
    const copied = this.#description.disks.filter(({ id }) => this.#modes[id] === 'copy');
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

  /** Taps every disk, then copies them; what the guest writes meanwhile is mirrored, until the very end. */
  async #copyDisks(): Promise<void> {
    this.#enterBoth('copyDisks');
    for (const disk of this.#disks) await disk.start();
    await Promise.all(this.#disks.map((disk) => disk.copied()));
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
    const flushing = this.#disks.map(({ disk }) => disk.flush({ signal: this.signal }));
    channel.send({ type: 'flush', token: 0 });
    const [flushed] = await Promise.all([this.#take('flushed'), ...flushing]);
    return flushed.durationMs;
  }

  /** Pauses the guest and sends what is left: the last pages, the mirror's rest, the device state, and FINAL. All in one flight. */
  async #stun(): Promise<void> {
    this.#enterBoth('stun');
    const channel = this.#live();
    this.#stunStartMs = this.environment.now();
    await this.#withinStun(async () => {
      await this.#vm.stun({ signal: this.signal });
      const disks = Promise.all(this.#disks.map((disk) => disk.finish()));
      disks.catch((error) => this.stop(asMigrationError(error, 'tap-gap')));
      await this.#sendLastRoundsAndState();
      await disks;
      channel.send({ type: 'final', streams: this.#streamEnds(), stateBytes: this.#state?.bytes ?? 0 });
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
    await this.#vm.seal();
    // The last moment at which an abort, a stopped guest or a lost link counts.
    throwIfAborted(this.signal);
    this.#committed = true;
    this.committed();
    await commit({
      channel: this.#live(),
      transport: this.#transport,
      environment: this.environment,
      register: this.#register,
      vmId: this.#description.vmId,
      epoch: this.#epoch,
      decideMsMax: this.#policy.decideMsMax,
    });
    this.#downtimeMs =
      this.environment.now() - (this.#stunStartMs ?? 0) - this.#live().statistics.roundTripMs / 2;
  }

  /** The destination runs it: let go of everything here. */
  async #release(): Promise<void> {
    this.#enterBoth('release');
    const channel = this.#live();
    channel.send({ type: 'bye' });
    const over = new MigrationError('invalid-state', 'the migration is over');
    await tidy([
      ...this.#disks.map((disk) => () => disk.stop(over)),
      () => this.#vm.memory.stop(),
      () => this.#vm.release(),
      () => this.#closeChannel(),
    ]);
  }

  async #failed(error: MigrationError): Promise<MigrationReport> {
    if (!this.#committed) return this.#rollBack(error);
    // `commit` throws only with the decision in the error: declined (reclaimed), or none.
    const { phase } = this.clock;
    if (error.owner === 'source') {
      this.#channel?.send({ type: 'bye' });
      const problems = await this.#restoreSource(error);
      this.#downtimeMs = this.environment.now() - (this.#stunStartMs ?? 0);
      return this.#report(
        'failed',
        'source',
        describe(error, problems, { phase, guest: this.#guestNow(problems) }),
      );
    }
    await tidy([() => this.#closeChannel(error)]);
    return this.#report('undecided', 'undecided', error.with({ phase, guest: 'paused', owner: 'undecided' }));
  }

  /** Before commit: the guest runs on here, as if nothing had been. */
  async #rollBack(thrown: MigrationError): Promise<MigrationReport> {
    const { phase } = this.clock;
    // What ended the migration may have surfaced as a consequence elsewhere: the first reason counts.
    this.stop(thrown);
    const error: MigrationError = this.signal.reason;
    const { code, message } = error;
    this.#channel?.send({ type: 'abort', code, reason: message.slice(0, 4000) });
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
    return tidy([
      ...(stunned ? [() => this.#vm.resume()] : []),
      async () => this.#buffer.close(),
      ...this.#disks.map((disk) => () => disk.stop(reason)),
      async () => this.#preCopy?.releaseThrottle(),
      () => this.#vm.memory.stop(),
      () => this.#vm.detach(),
      () => this.#closeChannel(reason),
    ]);
  }

  #guestNow(problems: readonly unknown[]): GuestState {
    const stop = this.signal.aborted ? stopKinds.get(this.signal.reason) : undefined;
    if (stop === 'gone' || stop === 'shutdown') return 'lost';
    if (!this.#wasRunning || stop === 'paused') return 'paused';
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
    const disks = this.#disks.map(({ disk, restBytes }) => ({
      name: disk.id,
      totalBytes: disk.sizeBytes,
      doneBytes: disk.sizeBytes - restBytes,
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
    };
  }
}

/** What happens to each of the VM's disks. Throws `invalid-argument` for one that it does not have, `unsupported` for one that cannot be copied. */
function diskModes(vm: SourceVm, policy: ResolvedPolicy): Readonly<Record<string, DiskMode>> {
  for (const id of Object.keys(policy.disks)) {
    if (!vm.disks.some((disk) => disk.id === id)) {
      throw new MigrationError('invalid-argument', `policy.disks names ${id}, which the VM does not have`);
    }
  }
  const modes: Record<string, DiskMode> = {};
  for (const disk of vm.disks) {
    const mode = policy.disks[disk.id] ?? 'copy';
    if (mode === 'copy' && !disk.readOnly && disk.tapCapability !== 'ordered') {
      throw new MigrationError(
        'unsupported',
        `the writes of disk ${disk.id} cannot be seen in order, so it cannot be copied`,
      );
    }
    modes[disk.id] = mode;
  }
  return modes;
}

const stopKinds = new WeakMap<MigrationError, UnexpectedStop['kind']>();

function guestStopped(stop: UnexpectedStop): MigrationError {
  const code = stop.kind === 'gone' ? 'hypervisor' : 'guest-stopped';
  const error = new MigrationError(code, stop.reason, { guest: stop.kind === 'paused' ? 'paused' : 'lost' });
  stopKinds.set(error, stop.kind);
  return error;
}

function peerFailed(code: string, reason: string): MigrationError {
  const known = errorCodes.find((candidate) => candidate === code);
  return new MigrationError(known ?? 'peer-failed', `the destination failed: ${reason}`);
}

/** The error as the caller gets it: with where things stand, and with what could not be put right. */
function describe(
  error: MigrationError,
  problems: readonly unknown[],
  details: { readonly phase: MigrationError['phase']; readonly guest: GuestState },
): MigrationError {
  const message =
    problems.length === 0
      ? error.message
      : `${error.message}; and then: ${problems.map((problem) => (problem instanceof Error ? problem.message : String(problem))).join('; ')}`;
  return new MigrationError(error.code, message, {
    ...details,
    owner: 'source',
    cause: error.cause ?? problems[0],
  });
}
