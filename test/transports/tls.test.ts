// Goal: over TLS a transport is what it is over TCP, and nobody gets in without a certificate that is good, of the
// CA, and for whom it should be; each refusal says which. Method: the compliance suite, and pairs of ends whose
// certificates are wrong in one way each, on sockets of this machine.
import { type AddressInfo, connect as connectSocket, createServer, type Socket } from 'node:net';
import { setTimeout as sleep } from 'node:timers/promises';
import { connect as connectTls, createServer as createTlsServer, type TLSSocket } from 'node:tls';
import { afterAll, describe, expect, test, vi } from 'vitest';
import type { ErrorCode, MigrationError } from '../../src/errors.ts';
import { type BreakableTransportFixture, transportCompliance } from '../../src/testing/index.ts';
import { type TlsOptions, tls } from '../../src/transports/tls.ts';
import {
  opensslAvailable,
  type TestCertificate,
  TestCertificates,
  type TestCredentials,
} from '../support/certificates.ts';
import { host, relayTo } from './tcp-pairs.ts';
import { collect, connect, memoriesReadInto, randomBytes, rejectsWith } from './transport-pair.ts';

const suite = opensslAvailable ? 'tls' : 'tls (skipped: there is no openssl)';

describe.skipIf(!opensslAvailable)(suite, () => {
  const certificates = new TestCertificates();
  afterAll(() => certificates[Symbol.dispose]());
  const kept = new Map<string, TestCredentials>();
  const certificate = (what: TestCertificate = {}): TestCredentials => {
    const key = JSON.stringify(what);
    const found = kept.get(key) ?? certificates.make(what);
    kept.set(key, found);
    return found;
  };

  async function pair(source: Partial<TlsOptions> = {}, destination: Partial<TlsOptions> = {}) {
    const good = certificate();
    const far = tls({ ...good, ...destination, listen: { host, port: 0 } });
    const { port } = await far.listening();
    const near = tls({ ...good, connect: { host, port }, ...source });
    const close = async () => {
      await Promise.all([near.close(), far.close()]);
    };
    const settle = async () => {
      for (let step = 0; step < 20; step++) await sleep(5);
    };
    return { source: near, destination: far, port, settle, close };
  }

  /** Through a relay, which resets all that it carries when it is cut. */
  async function relayed(): Promise<BreakableTransportFixture> {
    const ends = await pair();
    const relay = await relayTo(ends.port);
    const source = tls({ ...certificate(), connect: { host, port: relay.port } });
    return {
      ...ends,
      source,
      cut: relay.cut,
      close: async () => {
        relay.close();
        await Promise.all([source.close(), ends.close()]);
      },
    };
  }

  describe('keeps the contract', () => {
    transportCompliance({ test, create: pair, createBreakable: relayed });
  });

  test('reads into the same memory again and again when it is given back, at either end, and never into what is still looked at', async () => {
    const ends = await pair();
    // Reads of 16 KiB would be 2048.
    for (const memories of await memoriesReadInto(ends)) expect(memories).toBeLessThanOrEqual(12);
    await ends.close();
  });

  test('what the end that listens sends at once arrives whole behind its word of welcome', async () => {
    const ends = await pair();
    const content = randomBytes(200_000, 3);
    for (let round = 0; round < 10; round++) {
      const opening = ends.source.open();
      const far = await ends.destination.accept();
      await far.send([content]);
      const closing = far.close();
      const near = await opening;
      expect(Buffer.compare(await collect(near), content)).toBe(0);
      await Promise.all([near.close(), closing]);
    }
    await ends.close();
  });

  test('refuses options that make no sense, before anything is opened', () => {
    const invalid = expect.objectContaining({ code: 'invalid-argument' });
    const good = { ...certificate(), connect: { host, port: 1 } };
    const other = certificate({ names: 'DNS:other' });
    expect(() => tls(good)).not.toThrow();
    expect(() => tls({ ...good, cert: Buffer.from(good.cert), key: Buffer.from(good.key) })).not.toThrow();
    for (const wrong of [
      { cert: '' },
      { cert: 'no certificate' },
      { cert: good.cert.replace(/^.{20}/m, '') },
      { ca: '' },
      { ca: good.key },
      { ca: `${good.ca}\n-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n` },
      { key: '' },
      { key: good.cert },
      { key: other.key },
      { key: undefined as unknown as string },
      { serverName: '' },
      { connect: { host: '', port: 1 } },
    ]) {
      expect(() => tls({ ...good, ...wrong }), JSON.stringify(wrong)).toThrow(invalid);
    }
  });

  /** What the source's `open()` came to, and what the destination was told. */
  async function meet(source: Partial<TlsOptions>, destination: Partial<TlsOptions> = {}) {
    const refused: MigrationError[] = [];
    const onRefused = (error: MigrationError) => void refused.push(error);
    const ends = await pair(source, { onRefused, ...destination });
    const opened: MigrationError = await ends.source.open().then(
      () => expect.fail('it was opened'),
      (error) => error,
    );
    // Whoever was refused: the next one gets in.
    if (Object.keys(destination).length === 0) {
      const next = tls({ ...certificate(), connect: { host, port: ends.port } });
      const { near, far } = await connect({ source: next, destination: ends.destination });
      await Promise.all([near.close(), collect(far)]);
    }
    await ends.close();
    return { opened: opened.code, refused: refused.map(({ code }) => code), message: opened.message };
  }

  test('a source takes no destination of another CA, for another host, or whose certificate has expired', async () => {
    const foreign = certificate({ ca: 'foreign' });
    expect(await meet({ ca: foreign.ca })).toMatchObject({ opened: 'certificate-untrusted' });
    expect(await meet({ serverName: 'db.example' })).toMatchObject({
      opened: 'certificate-host',
      message: expect.stringMatching(/db\.example/),
    });
    const elsewhere = certificate({ names: 'DNS:elsewhere,IP:127.0.0.9' });
    const { cert, key } = elsewhere;
    expect(await meet({}, { cert, key })).toMatchObject({ opened: 'certificate-host' });
    const unnamed = certificate({ names: '' });
    const byItsSubject = meet({ serverName: 'localhost' }, { cert: unnamed.cert, key: unnamed.key });
    expect(await byItsSubject).toMatchObject({ opened: 'certificate-host' });
  });

  test.each(['localhost', '127.0.0.1'])('a name is one of the certificate: %s', async (serverName) => {
    const ends = await pair({ serverName });
    const { near, far } = await connect(ends);
    await Promise.all([near.close(), collect(far)]);
    await ends.close();
  });

  test('a destination takes no source of another CA, and both ends are told', async () => {
    const foreign = certificate({ ca: 'foreign' });
    const { cert, key } = foreign;
    expect(await meet({ cert, key })).toMatchObject({
      opened: 'certificate-untrusted',
      refused: ['certificate-untrusted'],
    });
  });

  test('a destination that wants names takes no source without, and both ends are told', async () => {
    expect(await meet({}, { peerNames: ['host-1', 'host-2'] })).toMatchObject({
      opened: 'certificate-host',
      refused: ['certificate-host'],
    });
    const ends = await pair({}, { peerNames: ['host-1', 'localhost'] });
    const { near, far } = await connect(ends);
    await Promise.all([near.close(), collect(far)]);
    await ends.close();
  });

  test('an end whose own certificate has expired opens and binds nothing', async () => {
    const expired = certificate({ days: -1 });
    await rejectsWith(tls({ ...expired, connect: { host, port: 1 } }).open(), 'certificate-expired');
    const listener = tls({ ...expired, listen: { host, port: 0 } });
    await rejectsWith(listener.listening(), 'certificate-expired');
    await rejectsWith(listener.accept(), 'certificate-expired');
  });

  test('what has expired is not taken from a stranger either, at either end', async () => {
    const { cert, key } = certificate({ days: -1 });
    const stranger = createTlsServer({ cert, key });
    await new Promise<void>((resolve) => stranger.listen(0, host, resolve));
    const { port } = stranger.address() as AddressInfo;
    await rejectsWith(tls({ ...certificate(), connect: { host, port } }).open(), 'certificate-expired');
    stranger.close();
    const refused: ErrorCode[] = [];
    const ends = await pair({}, { onRefused: ({ code }) => void refused.push(code) });
    await ended(raw(ends.port, { cert, key }));
    expect(refused).toEqual(['certificate-expired']);
    await ends.close();
  });

  const raw = (port: number, options: object): TLSSocket =>
    connectTls({ host, port, ca: certificate().ca, ...options });

  /** The code of the error with which a socket of a stranger ended, or nothing. */
  function ended(socket: Socket): Promise<string | undefined> {
    let code: string | undefined;
    socket.on('error', (error: NodeJS.ErrnoException) => {
      code = error.code;
    });
    socket.resume();
    return new Promise((resolve) => socket.once('close', () => resolve(code)));
  }

  test('strangers reach no accept(): without a certificate, of an older TLS, with something else', async () => {
    const refused: ErrorCode[] = [];
    const ends = await pair({}, { onRefused: ({ code }) => void refused.push(code) });
    expect(await ended(raw(ends.port, {}))).toBe('ERR_SSL_TLSV13_ALERT_CERTIFICATE_REQUIRED');
    const { cert, key } = certificate();
    expect(await ended(raw(ends.port, { cert, key, maxVersion: 'TLSv1.2' }))).toMatch(/PROTOCOL_VERSION/);
    const plain = connectSocket({ host, port: ends.port });
    plain.write('GET / HTTP/1.1\r\n\r\n');
    await ended(plain);
    expect(refused).toEqual(['certificate-untrusted']);
    const { near, far } = await connect(ends);
    await Promise.all([near.close(), collect(far)]);
    await ends.close();
  });

  test('no session is taken up again', async () => {
    const ends = await pair();
    const { cert, key } = certificate();
    const sessions: Buffer[] = [];
    const first = raw(ends.port, { cert, key });
    first.on('session', (session: Buffer) => sessions.push(session));
    await new Promise((resolve) => first.once('data', resolve));
    first.destroy();
    const again = raw(ends.port, { cert, key, session: sessions[0] ?? first.getSession() });
    await new Promise((resolve) => again.once('data', resolve));
    expect(again.isSessionReused()).toBe(false);
    again.destroy();
    await ends.close();
  });

  test('a crowd that never shakes hands makes room for who does', async () => {
    const ends = await pair();
    const crowd = Array.from({ length: 256 }, () => connectSocket({ host, port: ends.port }));
    let lost = 0;
    await Promise.all(
      crowd.map((socket) => {
        socket.on('error', () => {});
        socket.on('close', () => {
          lost += 1;
        });
        return new Promise((resolve) => socket.once('connect', resolve));
      }),
    );
    for (;;) {
      const opened = await ends.source.open().catch(() => undefined);
      if (opened !== undefined) break;
      await sleep(50);
    }
    expect(lost).toBeGreaterThan(0);
    expect(lost).toBeLessThan(256);
    (await ends.destination.accept()).abort();
    for (const socket of crowd) socket.destroy();
    await ends.close();
  });

  test('open() gives up on an end that does not speak TLS, and can be aborted during the handshake', async () => {
    const sockets: Socket[] = [];
    const server = createServer((socket) => void sockets.push(socket));
    await new Promise<void>((resolve) => server.listen(0, host, resolve));
    const { port } = server.address() as AddressInfo;
    const source = tls({ ...certificate(), connect: { host, port } });
    const controller = new AbortController();
    const aborted = source.open({ signal: controller.signal });
    const closed = new Promise((resolve) =>
      server.once('connection', (socket) =>
        socket
          .on('error', () => {})
          .once('close', resolve)
          .resume(),
      ),
    );
    server.once('connection', () => controller.abort());
    await rejectsWith(aborted, 'aborted');
    await closed;
    server.once('connection', (socket) => socket.end('SSH-2.0-x\r\n'));
    await rejectsWith(source.open(), 'connect-failed');
    vi.useFakeTimers({ toFake: ['setTimeout', 'clearTimeout'] });
    try {
      const silent = rejectsWith(source.open(), 'timeout');
      await new Promise<void>((resolve) => server.once('connection', () => setImmediate(resolve)));
      await new Promise((resolve) => setImmediate(resolve));
      vi.advanceTimersByTime(10_000);
      await silent;
    } finally {
      vi.useRealTimers();
      for (const socket of sockets) socket.destroy();
      server.close();
    }
  });
});
