import { createServer, type Server, type Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../../errors.ts';
import { deferred } from '../../util/promises.ts';
import type { NbdBlockBytes } from './nbd-options.ts';
import { NBD_PAYLOAD_BYTES_MAX } from './nbd-protocol.ts';
import { type NbdConnectionContext, NbdServerConnection } from './nbd-server-connection.ts';
import { isNbdExportName, type NbdExportOffer, type NbdExportOffers } from './nbd-server-handshake.ts';
import { exportFlags, type NbdServerHandler } from './nbd-server-rules.ts';

export type { NbdServerHandler } from './nbd-server-rules.ts';

/**
 * Minimum 1: QEMU's mirror sends each guest write as it is. With 512, or none announced, it reads from us
 * what is missing of a block first. Maximum 1 MiB: what the guest's writes are cut to, and so what one of
 * them can hold up.
 */
const DEFAULT_BLOCK_BYTES: NbdBlockBytes = { minimum: 1, preferred: 4096, maximum: 1024 * 1024 };

/**
 * Where a server listens. A unix socket is created, in a directory that only the caller and the clients can enter; nothing may be there
 * yet. TCP is neither encrypted nor authenticated: whoever reaches the port has the export. Port 0 takes any that is free.
 */
export type NbdAddress = { readonly path: string } | { readonly host: string; readonly port: number };

/** One disk that a server exports. */
export interface NbdExport {
  /** Its name, unique within the server. Default `''`. */
  readonly exportName?: string;
  /** The size that is announced, in bytes. */
  readonly sizeBytes: number;
  /**
   * Default: minimum 1, preferred 4096, maximum 1 MiB. A client may send up to 32 MiB at once all the same.
   */
  readonly blockBytes?: NbdBlockBytes;
  readonly handler: NbdServerHandler;
  /** Default false. */
  readonly readOnly?: boolean;
}

/** QEMU opens one connection, its tools up to as many as they have threads. */
const CONNECTIONS_MAX = 8;

/** What {@link NbdServer.listen} serves, and where. */
export interface NbdServerOptions {
  readonly address: NbdAddress;
  /** At least one. A client that asks for the default export (`''`) gets the first one, unless there is one of that name. */
  readonly exports: readonly NbdExport[];
  /**
   * Clients at once, 1 or more; a further one is hung up on. Default 8.
   */
  readonly connectionsMax?: number;
  /**
   * Requests of one connection under way at once, 1 or more; then it is not read any further. Default 128,
   * eight times what QEMU has under way.
   */
  readonly inFlightMax?: number;
  /**
   * Bytes of READ and WRITE under way at once on one connection, exceeded by at most one request. Default 64
   * MiB.
   */
  readonly inFlightBytesMax?: number;
}

/**
 * An NBD server on a unix socket or a TCP port.
 *
 * It keeps nothing: every request goes to the {@link NbdServerHandler}. A client that breaks the protocol, or
 * asks for more memory than the limits allow, loses its connection; the others and the server go on.
 */
export class NbdServer {
  readonly #server: Server;
  readonly #options: NbdServerOptions;
  readonly #offers: NbdExportOffers;
  readonly #connections = new Map<number, NbdServerConnection>();
  readonly #closed = deferred<void>();
  #nextConnection = 0;
  #closing = false;

  private constructor(options: NbdServerOptions, first: NbdExport, others: readonly NbdExport[]) {
    // All connections share a handler, so a flush on one of them covers the writes of all.
    const multiConn = (options.connectionsMax ?? CONNECTIONS_MAX) > 1;
    this.#options = options;
    this.#offers = [offerOf(first, multiConn), ...others.map((other) => offerOf(other, multiConn))];
    // Half open: replies are still owed to a client that says goodbye and shuts its side down.
    this.#server = createServer({ allowHalfOpen: true, noDelay: true }, (socket) => this.#accept(socket));
  }

  /**
   * Listens. Rejects with `invalid-argument` if an option is out of range, and `connect-failed` if the socket
   * cannot be created (its directory is missing, something is there already, the path is too long, the port is
   * taken); then nothing is left.
   */
  static async listen(options: NbdServerOptions): Promise<NbdServer> {
    const [first, ...others] = checkOptions(options);
    const server = new NbdServer(options, first, others);
    await new Promise<void>((resolve, reject) => {
      server.#server.once('error', (error) =>
        reject(asMigrationError(error, 'connect-failed', 'NBD server')),
      );
      server.#server.listen(options.address, resolve);
    });
    // Not able to accept one client (out of descriptors, say) is that client's loss.
    server.#server.on('error', () => {});
    return server;
  }

  /** Where it listens: as was asked for, but with the port that was taken. */
  get address(): NbdAddress {
    const { address } = this.#options;
    const bound = this.#server.address();
    if ('path' in address || bound === null || typeof bound === 'string') return address;
    return { host: address.host, port: bound.port };
  }

  /** How many clients are connected, those still in their handshake included. */
  get connections(): number {
    return this.#connections.size;
  }

  /**
   * Hangs up on all clients; the handler's `disconnected` has been called for each when this returns. New
   * ones may come.
   */
  dropConnections(reason: unknown): void {
    const error = asMigrationError(reason, 'aborted');
    for (const connection of [...this.#connections.values()]) connection.drop(error);
  }

  /**
   * Stops listening, removes the socket, and hangs up on all clients; calls under way in the handler go on,
   * with nobody to tell. Resolves when all is closed; never rejects; may be called twice.
   */
  async close(): Promise<void> {
    if (!this.#closing) {
      this.#closing = true;
      this.#server.close(() => this.#closed.resolve());
      this.dropConnections(new MigrationError('aborted', 'NBD: the server was closed'));
    }
    await this.#closed.promise;
  }

  async [Symbol.asyncDispose](): Promise<void> {
    await this.close();
  }

  #accept(socket: Socket): void {
    const {
      connectionsMax = CONNECTIONS_MAX,
      inFlightMax = 128,
      inFlightBytesMax = 2 * NBD_PAYLOAD_BYTES_MAX,
    } = this.#options;
    if (this.#closing || this.#connections.size >= connectionsMax) {
      socket.destroy();
      return;
    }
    const number = this.#nextConnection;
    this.#nextConnection += 1;
    let handler: NbdServerHandler | undefined;
    const context: NbdConnectionContext = {
      offers: this.#offers,
      inFlightMax,
      inFlightBytesMax,
      onReady: (chosen) => {
        handler = chosen;
        handler.connected?.(number);
      },
      onEnded: (reason) => {
        this.#connections.delete(number);
        handler?.disconnected(reason, number);
      },
    };
    this.#connections.set(number, new NbdServerConnection(socket, context));
  }
}

function offerOf(served: NbdExport, multiConn: boolean): NbdExportOffer {
  const { exportName = '', sizeBytes, blockBytes = DEFAULT_BLOCK_BYTES, handler, readOnly = false } = served;
  return { exportName, sizeBytes, blockBytes, handler, flags: exportFlags(handler, readOnly, multiConn) };
}

function refuse(what: string): never {
  throw new MigrationError('invalid-argument', `NBD server: ${what}`);
}

function checkOptions(options: NbdServerOptions): readonly [NbdExport, ...NbdExport[]] {
  const [first, ...others] = options.exports;
  if (first === undefined) return refuse('there is nothing to export');
  for (const served of options.exports) checkExport(served);
  const names = new Set(options.exports.map(({ exportName = '' }) => exportName));
  if (names.size !== options.exports.length) refuse('two exports have the same name');
  for (const limit of ['connectionsMax', 'inFlightMax', 'inFlightBytesMax'] as const) {
    const value = options[limit];
    if (value !== undefined && !(Number.isInteger(value) && value >= 1)) refuse(`${limit} is ${value}`);
  }
  return [first, ...others];
}

function checkExport({ sizeBytes, exportName = '', blockBytes = DEFAULT_BLOCK_BYTES }: NbdExport): void {
  if (!Number.isSafeInteger(sizeBytes) || sizeBytes < 0) refuse(`sizeBytes is ${sizeBytes}`);
  if (!isNbdExportName(exportName)) refuse('exportName is longer than 4096 bytes or contains a NUL');
  const { minimum, preferred, maximum } = blockBytes;
  const powers = [minimum, preferred].every((bytes) => bytes >= 1 && Number.isInteger(Math.log2(bytes)));
  const ordered =
    minimum <= preferred && preferred <= maximum && maximum <= NBD_PAYLOAD_BYTES_MAX && minimum <= 64 * 1024;
  if (!powers || !ordered || maximum % minimum !== 0)
    refuse(`blockBytes are ${minimum}, ${preferred}, ${maximum}`);
  if (sizeBytes % minimum !== 0) refuse('sizeBytes is not a multiple of blockBytes.minimum');
}
