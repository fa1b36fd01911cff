import { MigrationError } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport, TransportCapabilities } from '../interfaces/transport.ts';
import { AcceptQueue, transportClosed } from '../util/accept-queue.ts';
import { nodeEnvironment } from '../util/node-environment.ts';
import { raceAbort, Signalled } from '../util/promises.ts';
import { asGreeted } from '../wire/greeting.ts';
import { vmIdBytesMax } from '../wire/limits.ts';
import { GreetingRoom } from './greeting-room.ts';
import { HandedConnection } from './handed-connection.ts';
import { readGreeting, refuse } from './handshake.ts';

/** What {@link listen} takes beside the transport. */
export interface ListenOptions {
  /** Time. Default: the process's own. */
  readonly environment?: Environment;
}

/** Many migrations on one address: hands each connection to the destination that waits for its VM. */
export interface Listener {
  /**
   * The transport of the destination that waits for this VM, or of `answerQuestions()` for it. It accepts and does not open
   * (`unsupported`); 64 connections wait in it, and more are refused. Its maker closes it when the migration is over; then the VM may be
   * expected again. Throws `invalid-state` if the VM is expected already or the listener was closed, `invalid-argument` if the id
   * is empty or has more than 765 bytes of UTF-8.
   */
  expect(vmId: string): Transport;
  /**
   * Stops accepting, closes the transports that it gave, and drops whoever is still greeting; connections that were accepted live on. The
   * transport that it was made with stays its maker's to close. Idempotent.
   */
  close(): Promise<void>;
}

/** How long a connection may take over its greeting. */
const greetingMsMax = 10_000;

/**
 * Serves many migrations on one transport: `createDestination({ transport: listener.expect(vmId), ... })`. Each connection says which VM it is
 * for; one that nobody expects is refused (`refused` at the end that dialled), and one that says nothing in time is dropped. Nobody waits for
 * another's connections. Accepts from now on; when the transport cannot, every `accept()` that waits rejects with its
 * error, and the next one tries again.
 *
 * Throws `unsupported` if the transport cannot accept.
 */
export function listen(transport: Transport, options: ListenOptions = {}): Listener {
  if (!transport.capabilities.accept) {
    throw new MigrationError('unsupported', 'listen: the transport cannot accept connections');
  }
  return new ListenerImplementation(transport, options.environment ?? nodeEnvironment);
}

class ListenerImplementation implements Listener {
  readonly #transport: Transport;
  readonly #environment: Environment;
  readonly #expected = new Map<string, ExpectedTransport>();
  readonly #room: GreetingRoom;
  readonly #closed = new AbortController();
  readonly #asked = new Signalled();
  readonly #loop: Promise<void>;

  constructor(transport: Transport, environment: Environment) {
    this.#transport = transport;
    this.#environment = environment;
    this.#room = new GreetingRoom(environment);
    this.#loop = this.#accept();
  }

  expect(vmId: string): Transport {
    const { byteLength } = new TextEncoder().encode(vmId);
    if (byteLength === 0 || byteLength > vmIdBytesMax) {
      throw new MigrationError('invalid-argument', `a vmId has 1 to ${vmIdBytesMax} bytes of UTF-8`);
    }
    if (this.#closed.signal.aborted) throw new MigrationError('invalid-state', 'the listener was closed');
    const key = asGreeted(vmId);
    if (this.#expected.has(key)) {
      throw new MigrationError('invalid-state', `${vmId} is expected already`);
    }
    const expected = new ExpectedTransport(
      () => this.#asked.notify(),
      () => this.#expected.delete(key),
    );
    this.#expected.set(key, expected);
    return expected;
  }

  async close(): Promise<void> {
    this.#closed.abort();
    for (const expected of [...this.#expected.values()]) await expected.close();
    this.#room.abort();
    await this.#loop;
  }

  async #accept(): Promise<void> {
    const { signal } = this.#closed;
    while (!signal.aborted) {
      try {
        await this.#room.vacancy();
        this.#room.enter(await this.#transport.accept({ signal }), (connection) => this.#route(connection));
      } catch (error) {
        const asked = this.#asked.wait();
        for (const expected of this.#expected.values()) expected.queue.reject(error);
        await raceAbort(asked, signal).catch(() => {});
      }
    }
    await this.#room.emptied();
  }

  async #route(connection: Connection): Promise<void> {
    const greeted = await readGreeting(connection, this.#environment, greetingMsMax);
    const expected = this.#expected.get(greeted.greeting.vmId);
    const handed = new HandedConnection(greeted);
    if (expected?.queue.offer(handed) !== true) {
      await refuse({ ...greeted, connection: handed }, this.#environment);
    }
  }
}

class ExpectedTransport implements Transport {
  readonly capabilities: TransportCapabilities = { open: false, accept: true };
  readonly paths = 1;
  readonly queue = new AcceptQueue<HandedConnection>();
  readonly #onAccept: () => void;
  readonly #onClose: () => void;
  #closed = false;

  constructor(onAccept: () => void, onClose: () => void) {
    this.#onAccept = onAccept;
    this.#onClose = onClose;
  }

  async open(): Promise<Connection> {
    throw new MigrationError('unsupported', 'listen: only the other end opens connections');
  }

  accept(options: CallOptions = {}): Promise<Connection> {
    const taken = this.queue.take(options.signal);
    this.#onAccept();
    return taken;
  }

  async close(): Promise<void> {
    if (this.#closed) return;
    this.#closed = true;
    this.queue.close(transportClosed('listen'));
    this.#onClose();
  }
}
