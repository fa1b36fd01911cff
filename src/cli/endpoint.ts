import { BlockList, isIP, isIPv6 } from 'node:net';
import { UsageError } from './usage-error.ts';

/** Where a TCP socket is, or shall be. */
export interface Endpoint {
  /** A host name or an IP address, IPv6 without brackets. */
  readonly host: string;
  /** 0 to 65535. */
  readonly port: number;
}

/**
 * Reads `HOST:PORT`; an IPv6 address stands in brackets. Throws {@link UsageError}, which names `option`, if
 * it is none, or the port lies below `portMin` (0 where any free port will do) or above 65535.
 */
export function parseEndpoint(option: string, text: string, portMin: 0 | 1): Endpoint {
  const [, bracketed, plain, digits] = /^(?:\[([^\]]*)\]|([^:[\]\s]+)):(\d{1,5})$/.exec(text) ?? [];
  const host = bracketed ?? plain;
  if (host === undefined || digits === undefined || (bracketed !== undefined && !isIPv6(bracketed))) {
    throw new UsageError(`${option} must be HOST:PORT, an IPv6 address in brackets, not '${text}'`);
  }
  const port = Number(digits);
  if (port < portMin || port > 65535) {
    throw new UsageError(`${option}: the port must be from ${portMin} to 65535, not ${digits}`);
  }
  return { host, port };
}

/** As {@link parseEndpoint} reads it. */
export function formatEndpoint({ host, port }: Endpoint): string {
  return isIPv6(host) ? `[${host}]:${port}` : `${host}:${port}`;
}

const loopback = new BlockList();
loopback.addSubnet('127.0.0.0', 8, 'ipv4');
loopback.addAddress('::1', 'ipv6');

/**
 * Whether what is sent there cannot leave this machine: 127.0.0.0/8, ::1, or `localhost`. Any other name may
 * lead anywhere.
 */
export function isLoopback({ host }: Endpoint): boolean {
  const version = isIP(host);
  if (version === 0) return host.toLowerCase() === 'localhost';
  // With a zone it is a link's address.
  return !host.includes('%') && loopback.check(host, version === 4 ? 'ipv4' : 'ipv6');
}

/**
 * Throws {@link UsageError} where the VM would be sent over a network unencrypted and nobody said that this
 * is well. `secured`: TLS is used, or somebody did.
 */
export function requireSecure(option: string, endpoint: Endpoint, secured: boolean): void {
  if (secured || isLoopback(endpoint)) return;
  throw new UsageError(
    `${option} ${formatEndpoint(endpoint)} is not loopback, and plain TCP neither encrypts nor authenticates: ` +
      'give --cert, --key and --ca for TLS, or --no-tls if the network is your own and secure',
  );
}
