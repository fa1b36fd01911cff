import { asMigrationError, MigrationError } from '../errors.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport } from '../interfaces/transport.ts';
import { raceAbort } from '../util/promises.ts';
import { sessionBytes } from '../wire/greeting.ts';
import { Channel } from './channel.ts';
import { dial, type GreetingConnection, readGreeting, refuse, welcome } from './handshake.ts';

export interface ConnectOptions {
  readonly transport: Transport;
  readonly environment: Environment;
  /** Data connections. */
  readonly connections: number;
  readonly windowBytesMax: number;
  /** For each connection. */
  readonly limitMs: number;
  readonly signal: AbortSignal | undefined;
}

/** Dials all connections of a new session. On failure none is left. Rejects as {@link dial} does. */
export async function connectChannel(options: ConnectOptions): Promise<Channel> {
  const { transport, environment, limitMs, signal } = options;
  const session = environment.randomBytes(sessionBytes);
  const common = { session, environment, limitMs, signal };
  const control = await dial(transport, { ...common, purpose: 'control', lane: 0 });
  const channel = new Channel(options, control);
  const dials = Array.from({ length: options.connections }, async (_, index) => {
    const lane = index + 1;
    channel.addLane(lane, await dial(transport, { ...common, purpose: 'data', lane }));
  });
  try {
    await Promise.all(dials);
    return channel;
  } catch (error) {
    channel.abort(asMigrationError(error, 'connect-failed'));
    await Promise.allSettled(dials);
    throw error;
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
  /** Somebody asks who owns a VM: called with the connection, already let in. It must end it. */
  readonly onQuestion: (connection: GreetingConnection) => void;
}

/** Greetings that may be under way at once; more connections wait in the transport. */
const greetingsMax = 16;

/**
 * The accepting end: lets one session in, its lanes as they come, and questions at any time; turns everybody else away. Works until it
 * is closed.
 */
export class ChannelAcceptor {
  readonly #options: AcceptOptions;
  readonly #closed = new AbortController();
  readonly #loop: Promise<void>;
  readonly #connected: Promise<Channel>;
  #connect: (channel: Channel) => void = () => {};
  #connectFailed: (error: unknown) => void = () => {};
  #session: Uint8Array | undefined;

  constructor(options: AcceptOptions) {
    this.#options = options;
    this.#connected = new Promise((resolve, reject) => {
      this.#connect = resolve;
      this.#connectFailed = reject;
    });
    this.#connected.catch(() => {});
    this.#loop = this.#accept();
  }

  /** The channel of the first session that greets. Rejects with `connect-failed` if the transport cannot accept. */
  channel(signal: AbortSignal | undefined): Promise<Channel> {
    return raceAbort(this.#connected, signal);
  }

  /** Stops accepting. The channel lives on. */
  async close(): Promise<void> {
    this.#closed.abort();
    await this.#loop;
  }

  async #accept(): Promise<void> {
    const greetings = new Set<Promise<void>>();
    while (!this.#closed.signal.aborted) {
      let connection: Connection;
      try {
        if (greetings.size >= greetingsMax) await Promise.race(greetings);
        connection = await this.#options.transport.accept({ signal: this.#closed.signal });
      } catch (error) {
        this.#connectFailed(error);
        break;
      }
      const greeting = this.#greet(connection).catch((error) => connection.abort(error));
      greetings.add(greeting);
      greeting.finally(() => greetings.delete(greeting));
    }
    await Promise.allSettled(greetings);
  }

  async #greet(connection: Connection): Promise<void> {
    const { environment, greetingMsMax } = this.#options;
    const reading = readGreeting(connection, environment, greetingMsMax);
    const greeted = await raceAbort(reading, this.#closed.signal, () => connection.abort());
    const { purpose, session, lane } = greeted.greeting;
    switch (purpose) {
      case 'question':
        await welcome(greeted);
        this.#options.onQuestion(greeted);
        return;
      case 'control': {
        if (!this.#options.sessions || this.#session !== undefined || this.#closed.signal.aborted)
          return refuse(greeted);
        // Taken before the answer goes out: a second greeting in that moment is one too many.
        this.#session = session;
        await welcome(greeted);
        this.#connect(new Channel(this.#options, greeted));
        return;
      }
      case 'data': {
        const mine = this.#session?.every((byte, index) => session[index] === byte) ?? false;
        if (!mine) return refuse(greeted);
        const channel = await this.#connected;
        await welcome(greeted);
        channel.addLane(lane, greeted);
        return;
      }
    }
  }
}

/** Raised where a session is needed and none came. */
export function noSession(limitMs: number): MigrationError {
  return new MigrationError('timeout', `no source connected within ${limitMs} ms`);
}
