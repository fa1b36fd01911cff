import { asMigrationError, MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport } from '../interfaces/transport.ts';
import { onAbort } from '../util/on-abort.ts';
import { type Deferred, deferred, delay, raceAbort } from '../util/promises.ts';
import { sessionBytes } from '../wire/greeting.ts';
import { Channel } from './channel.ts';
import {
  childOf,
  dial,
  type GreetedConnection,
  type GreetingConnection,
  readGreeting,
  refuse,
  welcome,
} from './handshake.ts';
import { lanesAtFirst } from './lane-count.ts';

export interface ConnectOptions {
  readonly transport: Transport;
  /** Which VM the connections are for: a listener that serves several goes by it. */
  readonly vmId: string;
  readonly environment: Environment;
  /** Data connections. Undefined: some at first, and then as many as carry more than fewer would. */
  readonly connections: number | undefined;
  readonly windowBytesMax: number;
  readonly rateBytesPerSecondMax?: number | undefined;
  /** For each connection. */
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

/** Dials all connections of a new session. On failure, which one of them is enough for, none is left. Rejects as {@link dial} does. */
export async function connectChannel(options: ConnectOptions): Promise<Channel> {
  const attempt = childOf(options.signal);
  try {
    return await connect(options, attempt);
  } finally {
    attempt.unlink();
  }
}

async function connect(options: ConnectOptions, attempt: ReturnType<typeof childOf>): Promise<Channel> {
  const { transport, environment, limitMs } = options;
  const session = environment.randomBytes(sessionBytes);
  const common = { session, vmId: options.vmId, environment, limitMs, signal: attempt.signal };
  const control = await dial(transport, { ...common, purpose: 'control', lane: 0 });
  const dialLane = (lane: number, signal: AbortSignal): Promise<GreetedConnection> =>
    dial(transport, { ...common, signal, purpose: 'data', lane });
  const automatic = options.connections === undefined ? { dial: dialLane } : {};
  const channel = new Channel({ ...options, ...automatic, paths: transport.paths }, control);
  const unlink = onAbort(channel.signal, () => attempt.abort(channel.signal.reason));
  const atFirst = lanesAtFirst(control.roundTripMs, transport.paths);
  const dials = Array.from({ length: options.connections ?? atFirst }, async (_, index) => {
    const lane = index + 1;
    channel.addLane(lane, await dialLane(lane, attempt.signal));
  });
  try {
    await Promise.all(dials);
    return channel;
  } catch (error) {
    // Which calls off the other dials too.
    channel.abort(asMigrationError(error, 'connect-failed'));
    await Promise.allSettled(dials);
    throw error;
  } finally {
    unlink();
  }
}

export interface AcceptOptions {
  readonly transport: Transport;
  readonly environment: Environment;
  readonly windowBytesMax: number;
  /** How long a connection may take over its greeting. */
  readonly greetingMsMax: number;
  /** Whether a session is let in, or only questions. */
  readonly sessions: boolean;
  /**
   * Somebody asks who owns a VM: called with the connection, already let in. It must end it, and resolve then, for only so many are served at
   * once. The signal is aborted when the acceptor closes, which waits for it.
   */
  readonly onQuestion: (connection: GreetingConnection, signal: AbortSignal) => Promise<unknown>;
}

/** Greetings and questions that may be under way at once; more connections wait in the transport. */
const greetingsMax = 16;
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
    const greetings = new Set<Promise<void>>();
    while (!signal.aborted) {
      try {
        if (greetings.size >= greetingsMax) await Promise.race(greetings);
        const connection = await transport.accept({ signal });
        const greeting = this.#greet(connection).catch((error) => connection.abort(error));
        greetings.add(greeting);
        greeting.finally(() => greetings.delete(greeting));
      } catch (error) {
        if (this.#session === undefined) {
          this.#next.reject(error);
          break;
        }
        await delay(environment, acceptAgainMs, signal).catch(() => {});
      }
    }
    await Promise.allSettled(greetings);
  }

  async #greet(connection: Connection): Promise<void> {
    const { environment, greetingMsMax, sessions, onQuestion } = this.#options;
    const { signal } = this.#closed;
    const greeted = await raceAbort(readGreeting(connection, environment, greetingMsMax), signal);
    const { purpose, session, lane } = greeted.greeting;
    switch (purpose) {
      case 'question':
        await raceAbort(welcome(greeted), signal);
        await onQuestion(greeted, signal);
        return;
      case 'control':
        if (!sessions || this.#session !== undefined) return refuse(greeted, environment);
        return this.#begin(greeted);
      case 'data': {
        const current = this.#session;
        const mine = current?.id.every((byte, index) => session[index] === byte) ?? false;
        if (current === undefined || !mine) return refuse(greeted, environment);
        const channel = await current.channel.promise;
        await raceAbort(welcome(greeted), signal);
        channel.addLane(lane, greeted);
        return;
      }
    }
  }

  async #begin(greeted: GreetingConnection): Promise<void> {
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
