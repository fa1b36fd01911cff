import { constants } from 'node:crypto';
import { isIP, type Socket } from 'node:net';
import {
  checkServerIdentity,
  connect as connectTls,
  createSecureContext,
  createServer,
  type PeerCertificate,
  type SecureContextOptions,
  type TLSSocket,
} from 'node:tls';
import { MigrationError } from '../errors.ts';
import { abortError } from '../util/promises.ts';
import { type Credentials, checkValidNow, handshakeError, readCredentials } from './certificates.ts';
import { BlockPool, ReadBlocks } from './read-blocks.ts';
import { checkAddresses, formatAddress, type TcpAddress, type TcpOptions } from './socket-address.ts';
import { SocketConnection } from './socket-connection.ts';
import { SocketReader } from './socket-reader.ts';
import { type Arrival, type SocketLayer, SocketTransport, type TcpTransport } from './socket-transport.ts';

/** What {@link tls} takes: addresses as {@link tcp} does, and certificates. */
export interface TlsOptions extends TcpOptions {
  /** This end's certificate in PEM, with those between it and the CA behind it, if there are any. */
  readonly cert: string | Uint8Array;
  /** Its private key in PEM, not encrypted. */
  readonly key: string | Uint8Array;
  /** The certificates of the CAs that the peer's has to be of, in PEM. No others are trusted, the system's neither. */
  readonly ca: string | Uint8Array;
  /**
   * The host name or IP address that the certificate of the end that is connected to has to be for, by its
   * `subjectAltName`. Default: the host of the path that is taken.
   */
  readonly serverName?: string;
  /**
   * Where it listens: the names of which a connecting peer's certificate must have one. Default: every
   * certificate of the CA will do.
   */
  readonly peerNames?: readonly string[];
  /**
   * Where it listens: told of each peer that was turned away because of a certificate, its or ours
   * (`certificate-expired`, `certificate-untrusted`, `certificate-host`), since no `accept()` ever sees it. Must not throw.
   */
  readonly onRefused?: (error: MigrationError) => void;
}

/** How long a handshake may take, in ms, at each end. */
const handshakeMsMax = 10_000;
/** How long a peer that is turned away may take to go. */
const goMsMax = 1_000;

/**
 * The first byte that the end that listens sends, once it knows what it needs of the other's certificate:
 * in TLS 1.3 the end that connects is done before that, and would take a refusal for a lost connection.
 */
const verdict = { welcome: 0, full: 1, host: 2 } as const;

/**
 * Makes a transport over TLS 1.3, mutual: each end shows a certificate, and takes one of the CA only; the end
 * that connects also wants it to be for the host that it means. No session is resumed. `open()` resolves once both ends
 * have taken each other's certificate, and both ends have to be made by this function. Otherwise as {@link tcp}; beside
 * the 64 connections that wait, 256 may be in their handshakes, for 10 s each.
 *
 * `open()` also rejects with `certificate-expired`, `certificate-untrusted` or `certificate-host`, and `timeout`; `accept()` with
 * `certificate-expired` if the own certificate is. A peer that is turned away disturbs nobody else.
 *
 * Throws `invalid-argument` where {@link tcp} does, if `cert`, `key` or `ca` is missing or not PEM, or if the
 * key is not the certificate's.
 */
export function tls(options: TlsOptions): TcpTransport {
  checkAddresses('tls', options);
  if (options.serverName === '') throw new MigrationError('invalid-argument', 'tls: serverName is empty');
  return new SocketTransport(options, new TlsLayer(options, readCredentials(options)));
}

class TlsLayer implements SocketLayer {
  readonly name = 'tls';
  readonly #options: TlsOptions;
  readonly #credentials: Credentials;
  readonly #settings: SecureContextOptions;
  readonly #blocks = new BlockPool();

  constructor(options: TlsOptions, credentials: Credentials) {
    const { cert, key, ca } = credentials;
    this.#options = options;
    this.#credentials = credentials;
    this.#settings = {
      cert,
      key,
      ca,
      minVersion: 'TLSv1.3',
      maxVersion: 'TLSv1.3',
      secureOptions: constants.SSL_OP_NO_TICKET,
    };
  }

  check(): void {
    checkValidNow(this.#credentials.own);
  }

  dialled(socket: Socket, to: TcpAddress, signal: AbortSignal | undefined): Promise<SocketConnection> {
    const label = `tls to ${formatAddress(to.host, to.port)}`;
    // A zone is this host's own affair, and stands in no certificate.
    const host = this.#options.serverName ?? to.host.replace(/%.*$/, '');
    const secure = connectTls({
      socket,
      host,
      servername: isIP(host) === 0 ? host : '',
      secureContext: createSecureContext(this.#settings),
      rejectUnauthorized: true,
      checkServerIdentity: isFor,
    });
    return new Promise((resolve, reject) => {
      let shaken = false;
      const fail = (error: MigrationError) => {
        settle();
        destroy(secure, socket);
        reject(error);
      };
      const onAbort = () => {
        if (signal !== undefined) fail(abortError(signal));
      };
      const onShaken = () => {
        shaken = true;
      };
      const onError = (error: Error & { readonly code?: string }) => {
        const lost = shaken && !error.code?.startsWith('ERR_SSL');
        fail(lost ? notTaken(label, error) : handshakeError(label, error));
      };
      const onEnd = () => {
        fail(shaken ? notTaken(label) : handshakeError(label, new Error('the peer ended it')));
      };
      const onData = (chunk: Uint8Array) => {
        const error = refusal(label, chunk[0]);
        if (error !== undefined) return fail(error);
        settle();
        secure.pause();
        if (chunk.byteLength > 1) secure.unshift(chunk.subarray(1));
        resolve(this.#connection(secure, label, socket));
      };
      const timer = setTimeout(() => {
        fail(new MigrationError('timeout', `${label}: no TLS handshake within ${handshakeMsMax} ms`));
      }, handshakeMsMax);
      const settle = () => {
        clearTimeout(timer);
        signal?.removeEventListener('abort', onAbort);
        secure.off('secureConnect', onShaken).off('data', onData);
        secure.off('end', onEnd).off('close', onEnd).off('error', onError);
      };
      secure.on('secureConnect', onShaken).on('data', onData);
      secure.on('end', onEnd).on('close', onEnd).on('error', onError);
      socket.on('error', ignore);
      signal?.addEventListener('abort', onAbort);
      if (signal?.aborted) onAbort();
    });
  }

  async accepted(socket: Socket, peer: string): Promise<Arrival> {
    const label = `tls from ${peer}`;
    socket.on('error', ignore);
    const secure = await this.#shake(socket, label).catch((error) => {
      throw this.#refused(error);
    });
    const connection = this.#connection(secure, label, socket);
    const { peerNames } = this.#options;
    if (peerNames !== undefined && !isOneOf(peerNames, secure)) {
      const names = secure.getPeerX509Certificate()?.subjectAltName ?? 'nobody';
      const what = `the peer's certificate is for ${names}, not for ${peerNames.join(' or ')}`;
      const error = this.#refused(new MigrationError('certificate-host', `${label}: ${what}`));
      await dismiss(connection, verdict.host);
      throw error;
    }
    return {
      connection,
      welcome: () => void secure.write(Uint8Array.of(verdict.welcome)),
      turnAway: () => dismiss(connection, verdict.full),
    };
  }

  #connection(secure: TLSSocket, label: string, socket: Socket): SocketConnection {
    // Written together, chunks would be copied into one.
    Object.assign(secure, { _writev: undefined });
    return new SocketConnection(secure, label, socket, new SocketReader(new ReadBlocks(this.#blocks), true));
  }

  #refused(error: MigrationError): MigrationError {
    if (error.code.startsWith('certificate-')) this.#options.onRefused?.(error);
    return error;
  }

  /** A server of its own for each socket: what comes out of it is known to be of this socket. */
  #shake(socket: Socket, label: string): Promise<TLSSocket> {
    return new Promise((resolve, reject) => {
      const server = createServer({
        ...this.#settings,
        requestCert: true,
        rejectUnauthorized: true,
        handshakeTimeout: handshakeMsMax,
      });
      server.on('secureConnection', resolve);
      server.on('tlsClientError', (error: Error, { authorizationError }) => {
        // Node ends a connection whose certificate it does not take, and says why only here: as a text.
        const why: unknown = authorizationError;
        if (typeof why !== 'string') return reject(handshakeError(label, error));
        reject(handshakeError(label, Object.assign(new Error(why), { code: why })));
      });
      server.emit('connection', socket);
    });
  }
}

function isOneOf(names: readonly string[], secure: TLSSocket): boolean {
  const certificate = secure.getPeerCertificate();
  return names.some((name) => isFor(name, certificate) === undefined);
}

/** As Node does, but by the names in `subjectAltName` alone: without one, Node would go by the subject. */
function isFor(name: string, certificate: PeerCertificate): Error | undefined {
  const named = certificate.subjectaltname !== undefined;
  return checkServerIdentity(
    name,
    named ? certificate : { ...certificate, subject: { ...certificate.subject, CN: '' } },
  );
}

function refusal(label: string, byte: number | undefined): MigrationError | undefined {
  switch (byte) {
    case verdict.welcome:
      return undefined;
    case verdict.full:
      return new MigrationError('connect-failed', `${label}: too many connections wait there`);
    case verdict.host:
      return new MigrationError(
        'certificate-host',
        `${label}: the peer does not take this end's certificate: it is for none of the names that it takes`,
      );
    default:
      return new MigrationError('connect-failed', `${label}: the peer is not the other end of a migration`);
  }
}

/** The peer has seen our certificate, and went without a word: that is all that Node says of one that it does not take. */
function notTaken(label: string, cause?: unknown): MigrationError {
  return new MigrationError(
    'certificate-untrusted',
    `${label}: the peer ended it after the handshake, so it does not take this end's certificate: it is of ` +
      'another CA, or expired by its clock',
    { cause },
  );
}

/** Says its last word and ends it, within a second. */
async function dismiss(connection: SocketConnection, word: number): Promise<void> {
  const timer = setTimeout(() => connection.abort(), goMsMax);
  await connection.send([Uint8Array.of(word)]).catch(ignore);
  await connection.close();
  clearTimeout(timer);
}

function destroy(secure: TLSSocket, socket: Socket): void {
  secure.on('error', ignore);
  secure.destroy();
  socket.destroy();
}

/** What breaks below is told by the socket above. */
function ignore(): void {}
