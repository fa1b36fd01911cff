import { MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import { raceAbort } from '../../util/promises.ts';
import { NbdClient } from '../nbd/nbd-client.ts';
import { pollUntil } from './migration-status.ts';
import { OWN_PREFIX } from './own-prefix.ts';
import { type QmpClient, qmpCommandError } from './qmp.ts';
import { objectsOf } from './qmp-values.ts';

/**
 * QEMU's own NBD server, and our exports on it. QEMU has one such server: if it runs already it is somebody
 * else's, and neither used nor stopped.
 */
export class NbdExports {
  readonly #qmp: QmpClient;
  readonly #path: string;
  readonly #clients = new Map<string, Promise<NbdClient>>();
  #started: Promise<void> | undefined;
  #closed = false;
  #closing: Promise<void> | undefined;

  /** `path` is where the server is to listen; nothing happens before the first `open()`. */
  constructor(qmp: QmpClient, path: string) {
    this.#qmp = qmp;
    this.#path = path;
  }

  /**
   * A connection to a node, by a name of ours. Once per name; the next call gets the same. Rejects with
   * `hypervisor`, `invalid-state` if QEMU's NBD server is in use, `aborted`.
   */
  async open(name: string, nodeName: string, writable: boolean, signal?: AbortSignal): Promise<NbdClient> {
    if (this.#closed) throw new MigrationError('invalid-state', 'the exports were taken away');
    let client = this.#clients.get(name);
    if (client === undefined) {
      client = this.#open(name, nodeName, writable);
      this.#clients.set(name, client);
      // The next one who asks tries again.
      client.catch(() => this.#clients.delete(name));
    }
    // Others may be waiting for it as well.
    return await raceAbort(client, signal);
  }

  /** Starts the server, unless it runs; `open()` does so itself. Rejects as `open()`. */
  async start(): Promise<void> {
    this.#started ??= this.#start();
    await this.#started;
  }

  /** Every connection that is open now. */
  async clients(): Promise<readonly NbdClient[]> {
    return await Promise.all(this.#clients.values());
  }

  /**
   * Hangs up, removes the exports, and stops the server; resolves when QEMU has said that they are gone. Idempotent. Rejects with
   * `hypervisor`; then a node may still be writable from outside, and the next call tries again.
   */
  close(): Promise<void> {
    this.#closed = true;
    this.#closing ??= this.#close().catch((error) => {
      this.#closing = undefined;
      throw error;
    });
    return this.#closing;
  }

  async #open(name: string, nodeName: string, writable: boolean): Promise<NbdClient> {
    await this.start();
    const id = `${OWN_PREFIX}${name}`;
    const options = { type: 'nbd', id, 'node-name': nodeName, name, writable };
    await this.#qmp.execute('block-export-add', options);
    try {
      return await NbdClient.connect({ path: this.#path, exportName: name, unaligned: true });
    } catch (error) {
      await this.#qmp.execute('block-export-del', { id, mode: 'hard' }).catch(() => undefined);
      throw error;
    }
  }

  async #start(): Promise<void> {
    try {
      await this.#qmp.execute('nbd-server-start', { addr: { type: 'unix', data: { path: this.#path } } });
    } catch (error) {
      this.#started = undefined;
      if (qmpCommandError(error)?.desc.includes('already running') !== true) throw error;
      const message = 'QEMU runs an NBD server already, and has only one: stop it first (nbd-server-stop)';
      throw new MigrationError('invalid-state', message, { cause: error });
    }
  }

  async #close(): Promise<void> {
    if (this.#started === undefined) return;
    const clients = await Promise.allSettled(this.#clients.values());
    for (const client of clients) {
      // A graceful goodbye would wait for requests that nobody wants any more.
      if (client.status === 'fulfilled')
        client.value.abort(new MigrationError('aborted', 'the export is closed'));
    }
    await removeExports(this.#qmp);
    await this.#qmp.execute('nbd-server-stop');
  }
}

/** Removes every export of ours, and resolves when QEMU has said that they are gone. Rejects with `hypervisor`, `aborted`. */
export async function removeExports(qmp: QmpClient, options: CallOptions = {}): Promise<void> {
  for (const id of await ownExports(qmp, options.signal)) {
    await qmp.execute('block-export-del', { id, mode: 'hard' }, options);
  }
  // An export is listed until QEMU says BLOCK_EXPORT_DELETED, and somebody else may have been told before we listened.
  await pollUntil(
    (signal) => ownExports(qmp, signal),
    (left) => left.length === 0,
    (left) => `QEMU does not let go of the exports ${left.join(', ')}`,
  );
}

/** The ids of the exports of ours that stand. */
export async function ownExports(qmp: QmpClient, signal?: AbortSignal): Promise<readonly string[]> {
  const exports = objectsOf(await qmp.execute('query-block-exports', undefined, { signal }), 'block exports');
  return exports.map(({ id }) => String(id)).filter((id) => id.startsWith(OWN_PREFIX));
}
