import { checkAddresses, formatAddress, type TcpOptions } from './socket-address.ts';
import { SocketConnection } from './socket-connection.ts';
import { type SocketLayer, SocketTransport, type TcpTransport } from './socket-transport.ts';

/**
 * Makes a transport over TCP, which neither encrypts nor authenticates: see {@link tls}. Nothing is opened yet.
 * At most 64 connections wait to be accepted; more are reset at once. The end of a stream means that the peer
 * closed its socket, which the peer's system also does for a process that was killed.
 *
 * Throws `invalid-argument` if none of `connect`, `paths` and `listen` is given, or both of the first two, or too many paths; a host is
 * empty, a port is out of range, or `localAddress` is no IP address.
 */
export function tcp(options: TcpOptions): TcpTransport {
  checkAddresses(plain.name, options);
  return new SocketTransport(options, plain);
}

const plain: SocketLayer = {
  name: 'tcp',
  check: () => {},
  dialled: async (socket, { host, port }) =>
    new SocketConnection(socket, `tcp to ${formatAddress(host, port)}`),
  accepted: async (socket, peer) => {
    const connection = new SocketConnection(socket, `tcp from ${peer}`);
    return { connection, welcome: () => {}, turnAway: async () => connection.abort() };
  },
};
