import { connect, type Socket } from 'node:net';
import { asMigrationError, MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import { type Deferred, deferred, raceAbort } from '../../util/promises.ts';
import { encodePing } from './migration-stream.ts';
import { ReturnPathParser } from './return-path-parser.ts';

/** The socket on which a QEMU takes its incoming migration, and its answers. */
export class IncomingMigration {
  readonly #socket: Socket;
  readonly #answers = new ReturnPathParser();
  readonly #pongs = new Map<number, Deferred<void>>();
  readonly #shut = deferred<number>();
  #pings = 0;
  #failure: MigrationError | undefined;

  private constructor(socket: Socket) {
    this.#socket = socket;
    socket.on('data', (chunk) => this.#take(chunk));
    socket.on('error', (error) =>
      this.#fail(asMigrationError(error, 'hypervisor', "QEMU's incoming migration")),
    );
    socket.on('close', () =>
      this.#fail(new MigrationError('hypervisor', 'QEMU closed its incoming migration')),
    );
  }

  /** Connects to a QEMU that was told `migrate-incoming`. Rejects with `hypervisor`. */
  static async connect(path: string): Promise<IncomingMigration> {
    const socket = connect({ path });
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', (error) => reject(asMigrationError(error, 'hypervisor', 'migration socket')));
    });
    return new IncomingMigration(socket);
  }

  /** Resolves when the bytes are QEMU's or the kernel's, and may change. Calls do not overlap. Rejects with `hypervisor`. */
  async write(bytes: Uint8Array, options: CallOptions = {}): Promise<void> {
    if (this.#failure !== undefined) throw this.#failure;
    const written = new Promise<void>((resolve, reject) => {
      this.#socket.write(bytes, (error) => {
        if (error === undefined || error === null) resolve();
        else reject(this.#failure ?? asMigrationError(error, 'hypervisor', "QEMU's incoming migration"));
      });
    });
    await raceAbort(written, options.signal);
  }

  /** Resolves when QEMU has applied everything that was written before. Rejects with `hypervisor`. */
  async applied(options: CallOptions = {}): Promise<void> {
    const value = ++this.#pings;
    const pong = deferred<void>();
    this.#pongs.set(value, pong);
    await this.write(encodePing(value), options);
    if (this.#failure !== undefined) throw this.#failure;
    await raceAbort(pong.promise, options.signal);
  }

  /** Resolves when QEMU says that it has loaded everything. Rejects with `hypervisor` if it could not. */
  async loaded(options: CallOptions = {}): Promise<void> {
    const error = await raceAbort(this.#shut.promise, options.signal);
    if (error !== 0) throw new MigrationError('hypervisor', 'QEMU could not load the migration');
  }

  /** Closes the socket; unless everything was loaded, QEMU's incoming migration fails. Idempotent. */
  close(): void {
    this.#socket.destroy();
  }

  #take(chunk: Buffer): void {
    try {
      for (const message of this.#answers.push(chunk)) {
        if (message.kind === 'pong') {
          this.#pongs.get(message.value)?.resolve();
          this.#pongs.delete(message.value);
        } else if (message.kind === 'shut') this.#shut.resolve(message.error);
      }
    } catch (error) {
      this.#fail(asMigrationError(error, 'hypervisor'));
      this.#socket.destroy();
    }
  }

  #fail(error: MigrationError): void {
    if (this.#failure !== undefined) return;
    this.#failure = error;
    for (const pong of this.#pongs.values()) pong.reject(error);
    this.#shut.reject(error);
  }
}
