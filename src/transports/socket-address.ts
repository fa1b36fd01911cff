import { isIP } from 'node:net';
import { MigrationError } from '../errors.ts';

/** Where a TCP socket is, or shall be. */
export interface TcpAddress {
  /** A host name or an IP address. */
  readonly host: string;
  /** 0 to 65535. */
  readonly port: number;
}

/** One way to the other host. */
export interface TcpPath extends TcpAddress {
  /** The local IP address to connect from, which chooses the way. Default: the system's choice. */
  readonly localAddress?: string;
}

/** What {@link tcp} takes, and {@link tls} too: where to connect to, where to listen, or both. */
export interface TcpOptions {
  /** Where `open()` connects to; its port is 1 or more. Without it and `paths`, `open()` rejects with `unsupported`. */
  readonly connect?: TcpPath;
  /**
   * In place of `connect`, several ways to the same host, 1 to 64: other addresses of it, other addresses to connect from. The
   * migration uses them all, each for as much as it carries; control takes the first that can be had.
   */
  readonly paths?: readonly TcpPath[];
  /**
   * Where `accept()` listens; port 0 means any that is free. Without it `accept()` rejects with
   * `unsupported`.
   */
  readonly listen?: TcpAddress;
}

const pathsMax = 64;

/** The ways that the options name; none if they say nothing of connecting. */
export function pathsOf({ connect, paths }: TcpOptions): readonly TcpPath[] {
  return paths ?? (connect === undefined ? [] : [connect]);
}

/** Throws `invalid-argument` where the options make no sense; `name` is the transport's. */
export function checkAddresses(name: string, options: TcpOptions): void {
  const { connect, paths, listen } = options;
  if (connect !== undefined && paths !== undefined) {
    throw new MigrationError('invalid-argument', `${name}: connect and paths are both given`);
  }
  if (paths !== undefined && !(paths.length >= 1 && paths.length <= pathsMax)) {
    throw new MigrationError(
      'invalid-argument',
      `${name}: paths must be 1 to ${pathsMax}, not ${paths.length}`,
    );
  }
  if (connect === undefined && paths === undefined && listen === undefined) {
    throw new MigrationError('invalid-argument', `${name}: neither connect nor paths nor listen is given`);
  }
  for (const [index, path] of pathsOf(options).entries()) {
    const field = paths === undefined ? 'connect' : `paths[${index}]`;
    checkAddress(`${name}: ${field}`, path, 1);
    if (path.localAddress !== undefined && isIP(path.localAddress) === 0) {
      throw new MigrationError(
        'invalid-argument',
        `${name}: not an IP address: ${field}.localAddress ${path.localAddress}`,
      );
    }
  }
  if (listen !== undefined) checkAddress(`${name}: listen`, listen, 0);
}

function checkAddress(name: string, { host, port }: TcpAddress, portMin: number): void {
  if (typeof host !== 'string' || host === '') {
    throw new MigrationError('invalid-argument', `${name}.host must be a host name or an address`);
  }
  if (!Number.isInteger(port) || port < portMin || port > 65535) {
    throw new MigrationError('invalid-argument', `${name}.port must be ${portMin} to 65535, not ${port}`);
  }
}

/** As people write it, for messages. */
export function formatAddress(host = 'unknown', port = 0): string {
  return host.includes(':') ? `[${host}]:${port}` : `${host}:${port}`;
}
