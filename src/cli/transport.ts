import { readFileSync } from 'node:fs';
import { MigrationError } from '../index.ts';
import { type TcpOptions, type TcpTransport, type TlsOptions, tcp, tls } from '../transports/index.ts';
import type { Options } from './options.ts';
import type { Screen } from './screen.ts';
import { printable } from './units.ts';
import { UsageError } from './usage-error.ts';

/** What a command's transport is made of. */
export type ChosenTransport = { readonly tcp: TcpOptions } | { readonly tls: TlsOptions };

/**
 * The transport of a command: TLS with `--cert`, `--key` and `--ca`, else TCP. Nothing is opened yet. Whoever is turned away because of
 * a certificate is told of on the screen. Throws as {@link readTransport} does.
 */
export function makeTransport(options: Options, addresses: TcpOptions, screen: Screen): TcpTransport {
  const chosen = readTransport(options, addresses);
  if ('tcp' in chosen) return tcp(chosen.tcp);
  const onRefused = (error: MigrationError) => {
    screen.log(`turned away: ${error.code}: ${printable(error.message)}`);
  };
  return tls({ ...chosen.tls, onRefused });
}

/**
 * The transport of a command as plain data. Throws {@link UsageError} if only some of `--cert`, `--key` and `--ca` are given, if they go with
 * `--no-tls`, or if they are not what they should be.
 */
export function readTransport(options: Options, addresses: TcpOptions): ChosenTransport {
  const files = { cert: options.text('cert'), key: options.text('key'), ca: options.text('ca') };
  const missing = Object.entries(files).flatMap(([name, file]) => (file === undefined ? [`--${name}`] : []));
  if (missing.length === 3) return { tcp: addresses };
  if (missing.length > 0) {
    throw new UsageError(`--cert, --key and --ca go together: ${missing.join(' and ')} is missing`);
  }
  if (options.flag('no-tls')) throw new UsageError('--no-tls does not go with --cert');
  const read = (name: keyof typeof files) => readPem(`--${name}`, files[name] ?? '');
  const chosen = { ...addresses, cert: read('cert'), key: read('key'), ca: read('ca') };
  try {
    tls(chosen);
  } catch (error) {
    if (error instanceof MigrationError) throw new UsageError(error.message);
    throw error;
  }
  return { tls: chosen };
}

function readPem(option: string, file: string): string {
  try {
    return readFileSync(file, 'utf8');
  } catch (error) {
    throw new UsageError(
      `${option} cannot be read: ${error instanceof Error ? error.message : String(error)}`,
    );
  }
}
