import { connect, createServer, isIP, type Server, type Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import type { Connection, Transport, TransportCapabilities } from '../interfaces/transport.ts';
import { abortError, raceAbort, throwIfAborted } from '../util/promises.ts';
import { AcceptQueue, transportClosed } from './accept-queue.ts';
import { SocketConnection } from './socket-connection.ts';

/** Where a TCP socket is, or shall be. */
export interface TcpAddress {
  /** A host name or an IP address. */
  readonly host: string;
  /** 0 to 65535. */
  readonly port: number;
}

/** What {@link tcp} takes: at least one of the two. */
export interface TcpOptions {
  /** Where `open()` connects to; its port is 1 or more. Without it `open()` rejects with `unsupported`. */
  readonly connect?: TcpAddress & {
    /** The local IP address to connect from, which chooses the path. Default: the system's choice. */
    readonly localAddress?: string;
  };
  /**
   * Where `accept()` listens; port 0 means any that is free. Without it `accept()` rejects with
   * `unsupported`.
   */
  readonly listen?: TcpAddress;
}

/** A {@link Transport} over TCP. It does not encrypt. */
export interface TcpTransport extends Transport {
  /**
   * The address that is bound; starts listening if nothing did before (the first `accept()` does too).
   * Rejects with `connect-failed` if the address cannot be bound, and then the next call tries again, or when
   * the transport was closed; `unsupported` without `listen`.
   */
  listening(): Promise<TcpAddress>;
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

/**
 * Makes a transport over TCP. Nothing is opened yet. At most 64 connections wait to be accepted; more are
 * reset at once. The end of a stream means that the peer closed its socket, which the peer's system also does
 * for a process that was killed.
 *
 * Throws `invalid-argument` if neither `connect` nor `listen` is given, a host is empty, a port is out of
 * range, or `localAddress` is no IP address.
 */
export function tcp(options: TcpOptions): TcpTransport {
  const { connect, listen } = options;
  if (connect === undefined && listen === undefined) {
    throw new MigrationError('invalid-argument', 'tcp: neither connect nor listen is given');
  }
  if (connect !== undefined) checkAddress('connect', connect, 1);
  if (connect?.localAddress !== undefined && isIP(connect.localAddress) === 0) {
    throw new MigrationError(
      'invalid-argument',
      `tcp: not an IP address: connect.localAddress ${connect.localAddress}`,
    );
  }
  if (listen !== undefined) checkAddress('listen', listen, 0);
  return new TcpTransportImplementation(options);
}

class TcpTransportImplementation implements TcpTransport {
  readonly capabilities: TransportCapabilities;
  readonly paths = 1;
  readonly #options: TcpOptions;
  readonly #queue = new AcceptQueue<SocketConnection>();
  #server: Promise<Server> | undefined;
  #closed = false;

  constructor(options: TcpOptions) {
    this.#options = options;
    this.capabilities = { open: options.connect !== undefined, accept: options.listen !== undefined };
  }

  async open(options: CallOptions & { readonly path?: number } = {}): Promise<Connection> {
    const { connect } = this.#options;
    if (connect === undefined)
      throw new MigrationError('unsupported', 'tcp: it was given no address to connect to');
    if ((options.path ?? 0) !== 0) {
      throw new MigrationError('invalid-argument', `tcp: there is no path ${options.path}`);
    }
    if (this.#closed) throw transportClosed('tcp');
    throwIfAborted(options.signal);
    return dial(connect, options.signal);
  }

  async accept(options: CallOptions = {}): Promise<Connection> {
    throwIfAborted(options.signal);
    await raceAbort(this.#listen(), options.signal);
    return this.#queue.take(options.signal);
  }

  async listening(): Promise<TcpAddress> {
    const address = (await this.#listen()).address();
    // Null once the server was closed.
    if (address === null || typeof address === 'string') throw transportClosed('tcp');
    return { host: address.address, port: address.port };
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#queue.close(transportClosed('tcp'));
    // A server that is still about to bind cannot be closed: Node would bind it all the same.
    const server = await this.#server?.catch(() => undefined);
    // Its callback would wait for the accepted connections too, which live on; the port is free at once.
    server?.close();
  }

  async #listen(): Promise<Server> {
    const { listen } = this.#options;
    if (listen === undefined)
      throw new MigrationError('unsupported', 'tcp: it was given no address to listen on');
    if (this.#closed) throw transportClosed('tcp');
    this.#server ??= bind(listen, (socket) => this.#onConnection(socket)).catch((error) => {
      this.#server = undefined;
      throw error;
    });
    return this.#server;
  }

  #onConnection(socket: Socket): void {
    const connection = new SocketConnection(
      socket,
      `tcp from ${format(socket.remoteAddress, socket.remotePort)}`,
    );
    if (!this.#queue.offer(connection)) connection.abort();
  }
}

function bind(address: TcpAddress, onConnection: (socket: Socket) => void): Promise<Server> {
  const server = createServer(socketOptions, onConnection);
  return new Promise((resolve, reject) => {
    // Stays on, as an 'error' that nobody hears would end the process; Node emits none once it listens.
    server.on('error', (error) => {
      reject(connectFailed(`tcp: cannot listen on ${format(address.host, address.port)}`, error));
    });
    server.listen({ host: address.host, port: address.port }, () => resolve(server));
  });
}

function dial(
  address: NonNullable<TcpOptions['connect']>,
  signal: AbortSignal | undefined,
): Promise<Connection> {
  const name = format(address.host, address.port);
  return new Promise((resolve, reject) => {
    const socket = connect({ ...address, ...socketOptions });
    const settle = () => {
      socket.off('connect', onConnect);
      socket.off('error', onError);
      signal?.removeEventListener('abort', onAbort);
    };
    const onConnect = () => {
      settle();
      resolve(new SocketConnection(socket, `tcp to ${name}`));
    };
    const onError = (error: Error) => {
      settle();
      reject(connectFailed(`tcp: cannot connect to ${name}`, error));
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

function checkAddress(name: string, address: TcpAddress, portMin: number): void {
  const { host, port } = address;
  if (typeof host !== 'string' || host === '') {
    throw new MigrationError('invalid-argument', `tcp: ${name}.host must be a host name or an address`);
  }
  if (!Number.isInteger(port) || port < portMin || port > 65535) {
    throw new MigrationError(
      'invalid-argument',
      `tcp: ${name}.port must be ${portMin} to 65535, not ${port}`,
    );
  }
}

function format(host = 'unknown', port = 0): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
