import { asMigrationError, MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport } from '../interfaces/transport.ts';
import { onAbort } from '../util/on-abort.ts';
import { type Deferred, deferred, delay, raceAbort, throwIfAborted } from '../util/promises.ts';
import { sessionBytes } from '../wire/greeting.ts';
import { Channel, type Dialler } from './channel.ts';
import { GreetingRoom } from './greeting-room.ts';
import {
  challenge,
  childOf,
  dial,
  type ProvedConnection,
  readGreeting,
  refuse,
  welcome,
} from './handshake.ts';
import { lanesAtFirst } from './lane-count.ts';

export interface ConnectOptions {
  readonly transport: Transport;
  /** Which VM the connections are for: a listener that serves several goes by it. */
  readonly vmId: string;
  /** The ticket's: see handshake.ts. Default: none. */
  readonly secret?: Uint8Array | undefined;
  readonly environment: Environment;
  /** Data connections. Undefined: some at first, and then as many as carry more than fewer would. */
  readonly connections: number | undefined;
  readonly windowBytesMax: number;
  readonly rateBytesPerSecondMax?: number | undefined;
  /** For each connection; further ones, once all are there, are given up on sooner. */
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

/** After an outage nobody knows when the link is there again, so no dial may take long: so many ms, or round trips, of which TCP, TLS and the greeting take six. */
const redialMsMax = 1000;
const redialRoundTrips = 8;

/** A channel whose control connection is there. */
export interface ConnectedChannel {
  readonly channel: Channel;
  /** Resolves when all lanes are there. Rejects when one of them cannot be had, or the channel has failed; no more are dialled then, and the channel is its owner's to end. */
  readonly lanes: Promise<void>;
}

/** Dials all connections of a new session, and resolves when they are there. On failure, which one of them is enough for, none is left. Rejects as {@link dial} does. */
export async function connectChannel(options: ConnectOptions): Promise<Channel> {
  const { channel, lanes } = await connectControl(options);
  try {
    await lanes;
    return channel;
  } catch (error) {
    channel.abort(asMigrationError(error, 'connect-failed'));
    throw error;
  }
}

/**
 * Dials all connections of a new session, and resolves when control is let in. The lanes are dialled as soon as there is a connection at all, and ask to be let in once control has been: an
 * acceptor refuses the lanes of a session that it does not know. How many they are goes by how long that connection took. On failure nothing is left. Rejects as {@link dial} does.
 */
export async function connectControl(options: ConnectOptions): Promise<ConnectedChannel> {
  const attempt = childOf(options.signal);
  const letIn = deferred<Channel>();
  const dials: Promise<void>[] = [];
  try {
    const channel = await openChannel(options, attempt, letIn.promise, dials);
    letIn.resolve(channel);
    const lanes = allLanes(channel, dials, attempt);
    lanes.catch(() => {});
    return { channel, lanes };
  } catch (error) {
    letIn.reject(error);
    await callOff(attempt, error, dials);
    throw error;
  }
}

async function callOff(
  attempt: ReturnType<typeof childOf>,
  reason: unknown,
  dials: readonly Promise<void>[],
): Promise<void> {
  attempt.abort(reason);
  await Promise.allSettled(dials);
  attempt.unlink();
}

/** Resolves when control is let in, with the channel that `letIn` is to resolve to; adds the dials of the lanes, which wait for that, to `dials`. */
async function openChannel(
  options: ConnectOptions,
  { signal }: ReturnType<typeof childOf>,
  letIn: Promise<Channel>,
  dials: Promise<void>[],
): Promise<Channel> {
  const { transport, environment, limitMs, vmId, secret } = options;
  const session = environment.randomBytes(sessionBytes);
  const common = { session, vmId, secret, environment };
  const first = { ...common, limitMs, signal };
  const again = { ...common, limitMs: redialMsMax };
  const raiseLimit = (roundTripMs: number): void => {
    again.limitMs = Math.max(again.limitMs, redialRoundTrips * roundTripMs);
  };
  const dialLane = async (lane: number): Promise<void> => {
    const greeted = await dial(transport, { ...first, purpose: 'data', lane, due: letIn });
    // Whichever path is left has to do.
    raiseLimit(greeted.roundTripMs);
    (await letIn).addLane(lane, greeted);
  };
  const onOpened = (ms: number): void => {
    const count = options.connections ?? lanesAtFirst(ms, transport.paths);
    for (let lane = 1; lane <= count; lane++) dials.push(dialLane(lane));
    for (const dialled of dials) dialled.catch(() => {});
  };
  const control = await dial(transport, { ...first, purpose: 'control', lane: 0, onOpened });
  raiseLimit(control.roundTripMs);
  const dialler: Dialler = {
    lanes: options.connections,
    data: (lane, signal) => dial(transport, { ...again, purpose: 'data', lane, signal }),
    resume: (signal) => dial(transport, { ...again, purpose: 'resume', lane: 0, signal }),
  };
  return new Channel({ ...options, dialler, paths: transport.paths }, control);
}

/** Resolves when all of them are there. */
async function allLanes(
  channel: Channel,
  dials: readonly Promise<void>[],
  attempt: ReturnType<typeof childOf>,
): Promise<void> {
  const unlink = onAbort(channel.signal, () => attempt.abort(channel.signal.reason));
  try {
    throwIfAborted(channel.signal);
    await Promise.all(dials);
    channel.keepLanes();
    attempt.unlink();
  } catch (error) {
    await callOff(attempt, error, dials);
    throw asMigrationError(error, 'connect-failed');
  } finally {
    unlink();
  }
}

export interface AcceptOptions {
  readonly transport: Transport;
  /** The ticket's: see handshake.ts. Default: none. */
  readonly secret?: Uint8Array | undefined;
  readonly environment: Environment;
  readonly windowBytesMax: number;
  /** How long a connection may take over its greeting, and as long again over its proof. */
  readonly greetingMsMax: number;
  /** Whether a session is let in, or only questions. */
  readonly sessions: boolean;
  /**
   * Somebody asks who owns a VM: called with the connection, already let in. It must end it, and resolve then, for only so many are served at
   * once. The signal is aborted when the acceptor closes, which waits for it.
   */
  readonly onQuestion: (connection: ProvedConnection, signal: AbortSignal) => Promise<unknown>;
}

/** Questions that may be under way at once; more wait for their welcome. */
const questionsMax = 16;
/** A transport that cannot accept while a session runs is asked again after so long: the session's lanes and questions may still come. */
const acceptAgainMs = 250;

/** Who was let in, and its channel, once it has its welcome. */
interface Session {
  readonly id: Uint8Array;
  readonly channel: Deferred<Channel>;
}

/**
 * The accepting end: lets one session in, its lanes as they come, and questions at any time; turns everybody else away. Works until it
 * is closed.
 */
export class ChannelAcceptor {
  readonly #options: AcceptOptions;
  readonly #closed = new AbortController();
  readonly #loop: Promise<void>;
  readonly #questions = new Set<Promise<unknown>>();
  #session: Session | undefined;
  #next = deferred<Channel>();

  constructor(options: AcceptOptions) {
    this.#options = options;
    this.#loop = this.#accept();
  }

  /** The channel of the session that is let in. Rejects with `connect-failed` if the transport cannot accept. */
  channel(signal: AbortSignal | undefined): Promise<Channel> {
    return raceAbort(this.#next.promise, signal);
  }

  /**
   * Lets another session in: nothing came of the one whose channel was given out, and that has been aborted. Then
   * {@link ChannelAcceptor.channel} is the next one's.
   */
  again(): void {
    this.#session = undefined;
    this.#next = deferred();
  }

  /** Stops accepting; resolves when nothing is under way any more. The channel lives on. */
  async close(): Promise<void> {
    this.#closed.abort();
    await this.#loop;
  }

  async #accept(): Promise<void> {
    const { signal } = this.#closed;
    const { transport, environment } = this.#options;
    const room = new GreetingRoom(environment);
    while (!signal.aborted) {
      try {
        await room.vacancy();
        room.enter(await transport.accept({ signal }), (connection) => this.#greet(connection));
      } catch (error) {
        if (this.#session === undefined) {
          this.#next.reject(error);
          break;
        }
        await delay(environment, acceptAgainMs, signal).catch(() => {});
      }
    }
    await room.emptied();
    await Promise.allSettled(this.#questions);
  }

  async #greet(connection: Connection): Promise<void> {
    const { environment, greetingMsMax, secret, sessions } = this.#options;
    const { signal } = this.#closed;
    const greeting = await raceAbort(readGreeting(connection, environment, greetingMsMax), signal);
    const proving = challenge(greeting, { secret, environment, limitMs: greetingMsMax });
    const greeted = await raceAbort(proving, signal);
    const { purpose, session, lane } = greeted.greeting;
    switch (purpose) {
      case 'question':
        return this.#question(greeted);
      case 'control':
        if (!sessions || this.#session !== undefined) return refuse(greeted, environment);
        return this.#begin(greeted);
      case 'data':
      case 'resume': {
        const current = this.#session;
        const mine = current?.id.every((byte, index) => session[index] === byte) ?? false;
        if (current === undefined || !mine) return refuse(greeted, environment);
        const channel = await current.channel.promise;
        // What has failed does not come back with its link.
        if (channel.signal.aborted) return refuse(greeted, environment);
        await raceAbort(welcome(greeted), signal);
        if (purpose === 'data') channel.addLane(lane, greeted);
        else channel.resume(greeted);
        return;
      }
    }
  }

  /** Keeps its place among those who greet until there is one among those who ask. */
  async #question(greeted: ProvedConnection): Promise<void> {
    const { signal } = this.#closed;
    while (this.#questions.size >= questionsMax) await raceAbort(Promise.race(this.#questions), signal);
    const asking = (async () => {
      await raceAbort(welcome(greeted), signal);
      await this.#options.onQuestion(greeted, signal);
    })()
      .catch((error) => greeted.connection.abort(error))
      .finally(() => this.#questions.delete(asking));
    this.#questions.add(asking);
  }

  async #begin(greeted: ProvedConnection): Promise<void> {
    // Taken before the answer goes out: a second greeting in that moment is one too many.
    const session: Session = { id: greeted.greeting.session, channel: deferred() };
    this.#session = session;
    try {
      await raceAbort(welcome(greeted), this.#closed.signal);
    } catch (error) {
      // It broke before it was in: its place is free again.
      this.#session = undefined;
      session.channel.reject(error);
      throw error;
    }
    const channel = new Channel({ ...this.#options, acceptedFor: greeted.greeting.vmId }, greeted);
    session.channel.resolve(channel);
    this.#next.resolve(channel);
  }
}

/** Raised where a session is needed and none came. */
export function noSession(limitMs: number): MigrationError {
  return new MigrationError('timeout', `no source connected within ${limitMs} ms`);
}
