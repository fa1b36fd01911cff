import { connect, createServer, type Server, type Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import type { Connection, Transport, TransportCapabilities } from '../interfaces/transport.ts';
import { AcceptQueue, transportClosed } from '../util/accept-queue.ts';
import { abortError, raceAbort, throwIfAborted } from '../util/promises.ts';
import { formatAddress, pathsOf, type TcpAddress, type TcpOptions, type TcpPath } from './socket-address.ts';
import type { SocketConnection } from './socket-connection.ts';

/** A {@link Transport} over TCP sockets. */
export interface TcpTransport extends Transport {
  /**
   * The address that is bound; starts listening if nothing did before (the first `accept()` does too).
   * Rejects with `connect-failed` if the address cannot be bound, and then the next call tries again, or when
   * the transport was closed; `unsupported` without `listen`.
   */
  listening(): Promise<TcpAddress>;
}

/** What makes connections of connected sockets: nothing, for TCP; a handshake, for TLS. */
export interface SocketLayer {
  /** The transport's name, in messages. */
  readonly name: string;
  /** Throws where no handshake can succeed, before anything is opened. */
  check(): void;
  /** Of a socket that was connected. Rejects when it is not to be; the socket is destroyed then. */
  dialled(socket: Socket, to: TcpAddress, signal: AbortSignal | undefined): Promise<SocketConnection>;
  /** Of a socket that a peer opened. Rejects as {@link SocketLayer.dialled} does. */
  accepted(socket: Socket, peer: string): Promise<Arrival>;
}

/** A connection that a peer opened, of which it is not known yet whether there is a place for it. */
export interface Arrival {
  readonly connection: SocketConnection;
  /** There is. */
  welcome(): void;
  /** There is none: ends it. Does not reject. */
  turnAway(): Promise<void>;
}

/**
 * Frames are written whole, so Nagle's algorithm could only delay the last piece of each. Keep-alive finds a
 * peer that vanished while nobody sends, after 10 s plus 10 probes of a second each.
 */
const socketOptions = {
  allowHalfOpen: true,
  noDelay: true,
  keepAlive: true,
  keepAliveInitialDelay: 10_000,
} as const;

/** Handshakes under way at most: several migrations with all their connections may come at once. */
const handshakesMax = 256;
/** How long each may take, in ms, when there are as many: then the oldest makes room for the next. */
const crowdedMsMax = 1_000;

/** Sockets of this process, with one layer above. The options have been checked. */
export class SocketTransport implements TcpTransport {
  readonly capabilities: TransportCapabilities;
  readonly paths: number;
  readonly #paths: readonly TcpPath[];
  readonly #options: TcpOptions;
  readonly #layer: SocketLayer;
  readonly #queue = new AcceptQueue<SocketConnection>();
  /** Sockets in their handshakes, with the time at which it began, oldest first. */
  readonly #handshakes = new Map<Socket, number>();
  #server: Promise<Server> | undefined;
  #closed = false;

  constructor(options: TcpOptions, layer: SocketLayer) {
    this.#options = options;
    this.#layer = layer;
    this.#paths = pathsOf(options);
    this.paths = Math.max(1, this.#paths.length);
    this.capabilities = { open: this.#paths.length > 0, accept: options.listen !== undefined };
  }

  async open(options: CallOptions & { readonly path?: number } = {}): Promise<Connection> {
    const { name } = this.#layer;
    if (!this.capabilities.open)
      throw new MigrationError('unsupported', `${name}: it was given no address to connect to`);
    const to = this.#paths[options.path ?? 0];
    if (to === undefined) {
      throw new MigrationError('invalid-argument', `${name}: there is no path ${options.path}`);
    }
    if (this.#closed) throw transportClosed(name);
    throwIfAborted(options.signal);
    this.#layer.check();
    const socket = await dial(name, to, options.signal);
    return this.#layer.dialled(socket, to, options.signal);
  }

  async accept(options: CallOptions = {}): Promise<Connection> {
    throwIfAborted(options.signal);
    await raceAbort(this.#listen(), options.signal);
    return this.#queue.take(options.signal);
  }

  async listening(): Promise<TcpAddress> {
    const address = (await this.#listen()).address();
    // Null once the server was closed.
    if (address === null || typeof address === 'string') throw transportClosed(this.#layer.name);
    return { host: address.address, port: address.port };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#queue.close(transportClosed(this.#layer.name));
    for (const socket of this.#handshakes.keys()) socket.destroy();
    // A server that is still about to bind cannot be closed: Node would bind it all the same.
    const server = await this.#server?.catch(() => undefined);
    // Its callback would wait for the accepted connections too, which live on; the port is free at once.
    server?.close();
  }

  async #listen(): Promise<Server> {
    const { listen } = this.#options;
    const { name } = this.#layer;
    if (listen === undefined)
      throw new MigrationError('unsupported', `${name}: it was given no address to listen on`);
    if (this.#closed) throw transportClosed(name);
    this.#layer.check();
    this.#server ??= bind(name, listen, (socket) => void this.#onConnection(socket)).catch((error) => {
      this.#server = undefined;
      throw error;
    });
    return this.#server;
  }

  async #onConnection(socket: Socket): Promise<void> {
    if (!this.#hasRoom()) {
      socket.on('error', () => {});
      socket.resetAndDestroy();
      return;
    }
    this.#handshakes.set(socket, performance.now());
    try {
      const peer = formatAddress(socket.remoteAddress, socket.remotePort);
      const arrival = await this.#layer.accepted(socket, peer);
      if (this.#queue.offer(arrival.connection)) arrival.welcome();
      else await arrival.turnAway();
    } catch {
      // A handshake that failed is its peer's concern; whoever listens goes on.
      socket.destroy();
    } finally {
      this.#handshakes.delete(socket);
    }
  }

  #hasRoom(): boolean {
    if (this.#handshakes.size < handshakesMax) return true;
    for (const [socket, sinceMs] of this.#handshakes) {
      if (performance.now() - sinceMs < crowdedMsMax) return false;
      this.#handshakes.delete(socket);
      socket.destroy();
      return true;
    }
    return false;
  }
}

function bind(name: string, address: TcpAddress, onConnection: (socket: Socket) => void): Promise<Server> {
  // Paused: nothing must have been read before it is known where to.
  const server = createServer({ ...socketOptions, pauseOnConnect: true }, onConnection);
  return new Promise((resolve, reject) => {
    // Stays on, as an 'error' that nobody hears would end the process; Node emits none once it listens.
    server.on('error', (error) => {
      reject(connectFailed(`${name}: cannot listen on ${formatAddress(address.host, address.port)}`, error));
    });
    server.listen({ host: address.host, port: address.port }, () => resolve(server));
  });
}

function dial(name: string, address: TcpPath, signal: AbortSignal | undefined): Promise<Socket> {
  return new Promise((resolve, reject) => {
    const socket = connect({ ...address, ...socketOptions });
    const settle = () => {
      socket.off('connect', onConnect);
      socket.off('error', onError);
      signal?.removeEventListener('abort', onAbort);
    };
    const onConnect = () => {
      settle();
      resolve(socket);
    };
    const onError = (error: Error) => {
      settle();
      const peer = formatAddress(address.host, address.port);
      reject(connectFailed(`${name}: cannot connect to ${peer}`, error));
    };
    const onAbort = () => {
      settle();
      socket.on('error', () => {});
      socket.destroy();
      if (signal !== undefined) reject(abortError(signal));
    };
    socket.on('connect', onConnect);
    socket.on('error', onError);
    signal?.addEventListener('abort', onAbort);
  });
}

/** Where a name has several addresses, Node's error has no message of its own but one error for each. */
function connectFailed(context: string, error: Error): MigrationError {
  const errors: readonly unknown[] = error instanceof AggregateError ? error.errors : [error];
  const messages = errors.map((each) => asMigrationError(each, 'connect-failed').message);
  return new MigrationError('connect-failed', `${context}: ${messages.join('; ')}`, { cause: error });
}
