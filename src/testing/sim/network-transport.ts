import { MigrationError } from '../../errors.ts';
import type { CallOptions } from '../../interfaces/content.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { Connection, Transport, TransportCapabilities } from '../../interfaces/transport.ts';
import { AcceptQueue, transportClosed } from '../../util/accept-queue.ts';
import { delay, throwIfAborted } from '../../util/promises.ts';
import { type NetworkConnection, never } from './network-connection.ts';
import { Link, type Path, type PathHost } from './network-path.ts';

/** Where a transport listens, or dials to. */
export interface NetworkAddress {
  /** The host. */
  readonly host: string;
  /** What is listened on there. */
  readonly name: string;
}

/** What {@link Network.transport} takes. */
export interface NetworkTransportOptions {
  /** The host that its process runs on. */
  readonly host: string;
  /** Accepts connections under this name on its host. Default: it does not accept. */
  readonly listen?: string;
  /** Opens connections to there. Default: it does not open any. */
  readonly connect?: NetworkAddress;
  /** The paths that it opens connections over, by name, in order. Default: all that join the two hosts. */
  readonly paths?: readonly string[];
}

/** A transport that belongs to a process which can be killed. */
export interface NetworkTransport extends Transport {
  /** Connections of this process that are open. */
  readonly connections: number;
  /**
   * Its process dies: no call, made or to come, settles any more, and the name it listened on is free.
   * `reset`: its host lives, and peers lose their connections once a delay has passed. `silent`: its host
   * loses power, and peers hear nothing, ever: until they give up, their connections are half-open, and
   * nobody answers there until a new transport is made on the host. Idempotent; the first call counts.
   */
  kill(how: 'reset' | 'silent'): void;
}

/** What transports need of their network. */
export interface TransportHost extends PathHost {
  /** Who listens there, if anybody does. */
  listener(address: NetworkAddress): SimulatedTransport | undefined;
  /** It does not listen any more; `powerless`: nor does anything on its host. */
  forget(transport: SimulatedTransport, powerless: boolean): void;
  hasPower(host: string): boolean;
  noteKill(host: string): void;
  nextConnection(): number;
}

/** The first repetition of a connection request, as TCP's; each waits twice as long as the one before. */
const dialAgainMs = 1000;
/**
 * A path that is cut is found unreachable after this; nobody answers for this long, and the kernel gives up.
 */
const unreachableMs = 3000;
const dialMsMax = 127_000;

/** See {@link NetworkTransport}. */
export class SimulatedTransport implements NetworkTransport {
  readonly capabilities: TransportCapabilities;
  readonly options: NetworkTransportOptions;
  readonly #host: TransportHost;
  readonly #environment: Environment;
  readonly #paths: readonly Path[];
  readonly #queue = new AcceptQueue<NetworkConnection>();
  readonly #connections = new Set<NetworkConnection>();
  #closed = false;
  #dead = false;

  constructor(options: NetworkTransportOptions, paths: readonly Path[], host: TransportHost) {
    this.options = options;
    this.#paths = paths;
    this.#host = host;
    this.#environment = host.environment;
    this.capabilities = { open: options.connect !== undefined, accept: options.listen !== undefined };
  }

  get paths(): number {
    return Math.max(1, this.#paths.length);
  }

  get connections(): number {
    return this.#connections.size;
  }

  open(options: CallOptions & { readonly path?: number } = {}): Promise<Connection> {
    return this.#alive(this.#open(options.path ?? 0, options.signal));
  }

  accept(options: CallOptions = {}): Promise<Connection> {
    if (!this.capabilities.accept) return this.#alive(Promise.reject(this.#unsupported('accept')));
    return this.#alive(this.#queue.take(options.signal));
  }

  close(): Promise<void> {
    if (this.#dead) return never();
    this.#closed = true;
    this.#host.forget(this, false);
    this.#queue.close(transportClosed(this.#name));
    return Promise.resolve();
  }

  kill(how: 'reset' | 'silent'): void {
    if (this.#dead) return;
    this.#dead = true;
    this.#host.forget(this, how === 'silent');
    this.#host.noteKill(this.options.host);
    for (const connection of this.#connections) connection.die(how);
    this.#connections.clear();
  }

  /** Takes in a connection that a peer opened. False if it is refused. */
  offer(connection: NetworkConnection): boolean {
    this.#own(connection);
    return this.#queue.offer(connection);
  }

  get #name(): string {
    return `network: ${this.options.host}`;
  }

  #own(connection: NetworkConnection): void {
    this.#connections.add(connection);
    void connection.gone.then(() => this.#connections.delete(connection));
  }

  /** What the process is told, while there is one. */
  #alive<T>(promise: Promise<T>): Promise<T> {
    return new Promise((resolve, reject) => {
      promise.then(
        (value) => {
          if (!this.#dead) resolve(value);
        },
        (error) => {
          if (!this.#dead) reject(error);
        },
      );
    });
  }

  async #open(index: number, signal: AbortSignal | undefined): Promise<Connection> {
    const { connect } = this.options;
    if (connect === undefined) throw this.#unsupported('open');
    if (this.#closed) throw transportClosed(this.#name);
    throwIfAborted(signal);
    const path = this.#paths[index];
    if (path === undefined) {
      throw new MigrationError(
        'invalid-argument',
        `${this.#name}: there is no path ${index} to ${connect.host}`,
      );
    }
    return this.#dial(path, connect, signal);
  }

  /** A request goes there, its answer comes back; what is not answered is repeated. */
  async #dial(path: Path, to: NetworkAddress, signal: AbortSignal | undefined): Promise<Connection> {
    const environment = this.#environment;
    const start = environment.now();
    for (let againMs = dialAgainMs; ; againMs *= 2) {
      const asked = environment.now();
      const connection = await this.#ask(path, to, signal);
      if (connection !== undefined) return connection;
      await delay(environment, Math.max(0, asked + againMs - environment.now()), signal);
      const waitedMs = environment.now() - start;
      if (this.#dead) return never();
      if (path.cut && waitedMs >= unreachableMs) throw failed(path, to, 'there is no way there');
      if (waitedMs >= dialMsMax) throw failed(path, to, 'nobody answered');
    }
  }

  /** One request; undefined if there is no answer. */
  async #ask(
    path: Path,
    to: NetworkAddress,
    signal: AbortSignal | undefined,
  ): Promise<Connection | undefined> {
    const environment = this.#environment;
    const { host } = this.options;
    const out = path.wireFrom(host);
    const back = path.wireFrom(to.host);
    const lost = () => this.#host.prng.fraction() < out.lossProbability;
    if (path.cut || lost()) return undefined;
    await delay(environment, out.arrivalOf(environment.now()) - environment.now(), signal);
    if (this.#dead) return never();
    if (path.cut || out.dark || !this.#host.hasPower(to.host)) return undefined;
    const listener = this.#host.listener(to);
    const link =
      listener === undefined
        ? undefined
        : new Link(this.#host.nextConnection(), path, [host, to.host], this.#host);
    const [ours, theirs] = link?.ends ?? [];
    if (ours !== undefined) this.#own(ours);
    const taken = theirs !== undefined && listener?.offer(theirs) === true;
    if (!taken) theirs?.abort();
    try {
      await delay(environment, back.arrivalOf(environment.now()) - environment.now(), signal);
      if (this.#dead) return never();
      throwIfAborted(signal);
    } catch (error) {
      ours?.abort(error);
      throw error;
    }
    if (path.cut || back.dark) {
      // The answer was lost. The next request is for another connection.
      ours?.abort();
      return undefined;
    }
    if (ours === undefined || !taken || !ours.open) {
      ours?.abort();
      throw failed(path, to, 'the peer refused it, or it broke at once');
    }
    return ours;
  }

  #unsupported(call: string): MigrationError {
    return new MigrationError('unsupported', `${this.#name}: this transport cannot ${call}`);
  }
}

function failed(path: Path, to: NetworkAddress, what: string): MigrationError {
  return new MigrationError('connect-failed', `${path.name} to ${to.host}/${to.name}: ${what}`);
}
