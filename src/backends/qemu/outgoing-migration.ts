import { createServer, type Server, type Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../../errors.ts';
import { raceAbort, Signalled } from '../../util/promises.ts';
import { readInto } from '../../util/read-into.ts';
import { pollUntil, queryMigration, settledMigration } from './migration-status.ts';
import { encodeShut, encodeSwitchoverAck } from './migration-stream.ts';
import { type MigrationStreamHandler, MigrationStreamParser } from './migration-stream-parser.ts';
import type { QmpClient } from './qmp.ts';

/** What is read at a time, always into the same: a buffer for each read has the collector run all the time. */
const READ_BYTES = 256 * 1024;

/** A chunk was parsed. */
export interface ChunkEnd {
  /** To its end: nothing of it waits for more. */
  readonly atBoundary: boolean;
  /** The socket was empty then. */
  readonly drained: boolean;
}

/** What the socket's owner needs to know after each chunk. */
export interface OutgoingMigrationHandler extends MigrationStreamHandler {
  /** Whether to go on reading now. What it says does not count once reading cannot be stopped any more. */
  chunkEnd(end: ChunkEnd): 'goOn' | 'pause';
}

/**
 * A `migrate` of a QEMU to a socket of ours: the stream that comes in, and the few answers to it.
 *
 * It is read only while somebody waits for it: QEMU then waits too, and that costs it and the guest nothing. After the
 * acknowledgement this must not be: QEMU writes its last pass while it holds its big lock, and its monitor is deaf until we have read.
 */
export class OutgoingMigration {
  readonly #socket: Socket;
  readonly #handler: OutgoingMigrationHandler;
  readonly #parser: MigrationStreamParser;
  readonly #news = new Signalled();
  #switching = false;
  #failure: MigrationError | undefined;

  private constructor(socket: Socket, handler: OutgoingMigrationHandler) {
    this.#socket = socket;
    this.#handler = handler;
    this.#parser = new MigrationStreamParser(handler);
    // A socket that reads into this buffer emits none of these.
    socket.on('data', (chunk) => this.#take(chunk));
    const buffer = Buffer.allocUnsafeSlow(READ_BYTES);
    readInto(
      socket,
      () => buffer,
      (bytes) => this.#take(buffer.subarray(0, bytes)),
    );
    socket.on('error', (error) =>
      this.#fail(asMigrationError(error, 'hypervisor', "QEMU's migration stream")),
    );
    socket.on('close', () =>
      this.#fail(new MigrationError('hypervisor', "QEMU's migration stream: QEMU closed it")),
    );
  }

  /**
   * Has QEMU connect to `path`, where nothing may be yet, and removes it again. The settings have been applied. Rejects with
   * `hypervisor`; then none is under way.
   */
  static async begin(
    qmp: QmpClient,
    path: string,
    handler: OutgoingMigrationHandler,
    signal?: AbortSignal,
  ): Promise<OutgoingMigration> {
    const server = createServer({ pauseOnConnect: true });
    const connected = new Promise<Socket>((resolve, reject) => {
      server.once('connection', resolve);
      server.once('error', (error) => reject(asMigrationError(error, 'hypervisor', 'migration socket')));
    });
    connected.catch(() => {});
    try {
      await listening(server, path);
      await qmp.execute('migrate', { uri: `unix:${path}` }, { signal });
      const socket = await raceAbort(Promise.race([connected, refused(qmp, connected)]), signal);
      return new OutgoingMigration(socket, handler);
    } catch (error) {
      void connected.then(
        (socket) => socket.destroy(),
        () => {},
      );
      // Answered in order, so what follows is bound to see its effect, and has a limit.
      qmp.execute('migrate_cancel').catch(() => undefined);
      await settledMigration(qmp).catch(() => undefined);
      throw error;
    } finally {
      server.close();
    }
  }

  /** Why nothing more comes, if so. */
  get failure(): MigrationError | undefined {
    return this.#failure;
  }

  /** Reads on, and resolves after some of it was parsed. Rejects when nothing more comes. */
  async read(signal?: AbortSignal): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const news = this.#news.wait();
    this.#socket.resume();
    await raceAbort(news, signal);
  }

  /** Waits for what is to happen while everything is read as it comes. Rejects when nothing more comes before. */
  async until(event: Promise<void>, signal?: AbortSignal): Promise<void> {
    let happened = false;
    const noted = event.then(() => {
      happened = true;
    });
    while (!happened) await Promise.race([noted, this.read(signal)]);
  }

  /** From now on everything is read as it comes, and QEMU is told that it may stop the guest. */
  acknowledgeSwitchover(): void {
    this.#switching = true;
    this.#socket.resume();
    this.#socket.write(encodeSwitchoverAck());
  }

  /** Tells QEMU that all has arrived: its migration completes, and from then on it does not resume the guest by itself. */
  shut(): void {
    this.#socket.write(encodeShut(0));
  }

  /** Closes the socket. Unless the migration is over, QEMU fails it, and runs the guest on. */
  close(): void {
    this.#socket.destroy();
    this.#fail(new MigrationError('aborted', "QEMU's migration stream was closed"));
  }

  #take(chunk: Buffer): void {
    if (this.#failure !== undefined) return;
    try {
      this.#parser.push(chunk);
      const drained = chunk.byteLength < READ_BYTES;
      const next = this.#handler.chunkEnd({ atBoundary: this.#parser.atBoundary, drained });
      if (next === 'pause' && !this.#switching) this.#socket.pause();
    } catch (error) {
      this.#fail(asMigrationError(error, 'internal'));
      // What cannot be understood is not read either; without us the guest runs on.
      this.#socket.destroy();
    }
    this.#news.notify();
  }

  #fail(error: MigrationError): void {
    this.#failure ??= error;
    this.#news.fail(this.#failure);
  }
}

const ENDED: ReadonlySet<string> = new Set(['failed', 'cancelled']);

/** Rejects if QEMU does not come: it may not be allowed to enter the directory. */
async function refused(qmp: QmpClient, connected: Promise<Socket>): Promise<Socket> {
  let here = false;
  void connected.then(
    () => {
      here = true;
    },
    () => {},
  );
  const { status, error } = await pollUntil(
    (signal) => queryMigration(qmp, signal),
    (migration) => here || ENDED.has(migration.status),
    () => 'QEMU does not connect to its migration socket',
  );
  if (here) return await connected;
  throw new MigrationError('hypervisor', `QEMU's migration is ${status}: ${error ?? 'no reason given'}`);
}

function listening(server: Server, path: string): Promise<void> {
  return new Promise((resolve, reject) => {
    server.once('error', reject);
    server.listen(path, () => {
      server.off('error', reject);
      resolve();
    });
  });
}
