import type { Socket } from 'node:net';
import { BlockPool, ReadBlocks } from './read-blocks.ts';
import { checkAddresses, formatAddress, type TcpAddress, type TcpOptions } from './socket-address.ts';
import { SocketConnection } from './socket-connection.ts';
import { SocketReader } from './socket-reader.ts';
import { type Arrival, type SocketLayer, SocketTransport, type TcpTransport } from './socket-transport.ts';

/**
 * Makes a transport over TCP, which neither encrypts nor authenticates: see {@link tls}. Nothing is opened yet.
 * At most 64 connections wait to be accepted; more are reset at once. The end of a stream means that the peer
 * closed its socket, which the peer's system also does for a process that was killed.
 *
 * Throws `invalid-argument` if none of `connect`, `paths` and `listen` is given, or both of the first two, or too many paths; a host is
 * empty, a port is out of range, or `localAddress` is no IP address.
 */
export function tcp(options: TcpOptions): TcpTransport {
  checkAddresses('tcp', options);
  return new SocketTransport(options, new PlainLayer());
}

class PlainLayer implements SocketLayer {
  readonly name = 'tcp';
  readonly #blocks = new BlockPool();

  check(): void {}

  async dialled(socket: Socket, { host, port }: TcpAddress): Promise<SocketConnection> {
    return this.#connection(socket, `tcp to ${formatAddress(host, port)}`);
  }

  async accepted(socket: Socket, peer: string): Promise<Arrival> {
    const connection = this.#connection(socket, `tcp from ${peer}`);
    return { connection, welcome: () => {}, turnAway: async () => connection.abort() };
  }

  #connection(socket: Socket, label: string): SocketConnection {
    return new SocketConnection(socket, label, socket, new SocketReader(new ReadBlocks(this.#blocks)));
  }
}
