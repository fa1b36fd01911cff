import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import { createPrng } from '../../util/prng.ts';
import { type LinkEvent, Path, type PathHost, type PathOptions } from './network-path.ts';
import {
  type NetworkAddress,
  type NetworkTransport,
  type NetworkTransportOptions,
  SimulatedTransport,
  type TransportHost,
} from './network-transport.ts';
import type { Wire, WireConditions, WireStatistics } from './network-wire.ts';

/** What {@link createNetwork} takes. */
export interface NetworkOptions {
  /** Time; a virtual one, if runs are to be equal. */
  readonly environment: Environment;
  /** Chance, all of it: a safe integer. Default 1. */
  readonly seed?: number;
  /** One or more, with names of their own. */
  readonly paths: readonly PathOptions[];
  /**
   * Whether the consumer gets copies, made in the moment of delivery, as any real network makes them.
   * Without, chunks pass by reference, which is much faster; then a sender that changes a chunk when the peer
   * has it changes what the peer may not have looked at yet, and the network does not keep
   * the transports' contract in this one respect. Default true.
   */
  readonly copy?: boolean;
  /** Called for everything that happens, as it happens; must not throw. */
  readonly observe?: (event: NetworkEvent) => void;
}

/** Something that happened in a network. */
export interface NetworkEvent {
  /** When. */
  readonly atMs: number;
  /** What. */
  readonly kind: LinkEvent | NetworkFault;
  /** The path's name; empty where the event is not one path's. */
  readonly path: string;
  /** The connection's number, 1 and up in the order of opening; 0 where the event is not one connection's. */
  readonly connection: number;
  /**
   * The host that sent, whose end is over, or whose process was killed; empty where the event is not one
   * host's.
   */
  readonly host: string;
  /** Payload bytes that it concerns. */
  readonly bytes: number;
}

/** Faults and changes that a test orders. */
export type NetworkFault = 'kill' | 'cut' | 'mend' | 'dark' | 'light' | 'change' | 'reset';

/** Where a fault strikes. Nothing: everywhere. */
export interface NetworkPlace {
  /** Only on this path. */
  readonly path?: string;
  /** Only on the way that leads away from this host. */
  readonly from?: string;
}

/** A connection with an end that is open. */
export interface NetworkConnectionView {
  /** Its number, 1 and up. */
  readonly id: number;
  /** The path that it takes. */
  readonly path: string;
  /** The host that dialled and the host that was dialled, if their ends are open. */
  readonly openAt: readonly string[];
  /** Breaks it now, at both ends. */
  reset(): void;
}

/** What a network has done so far. */
export interface NetworkStatistics {
  /**
   * Ends of connections that are open, of processes that live: 2 for a connection, 1 for a half-open one. 0
   * when all is over.
   */
  readonly openEnds: number;
  /** Connections that were made. */
  readonly connections: number;
  /** Bytes that were sent and not yet received by their consumers, nor given up ... */
  readonly heldBytes: number;
  /** ... and the most that it ever was. */
  readonly heldBytesPeak: number;
  /** By path, each way: the first from the path's first end to its second. */
  readonly paths: Readonly<Record<string, readonly [WireStatistics, WireStatistics]>>;
}

/** A simulated network between hosts. */
export interface Network {
  /**
   * A transport for a process on a host. It keeps the transports' contract. Throws
   * `invalid-argument` for a path or a host that is not there, or a name on which another transport listens.
   */
  transport(options: NetworkTransportOptions): NetworkTransport;
  /**
   * Resets what is open on the path and lets nothing be opened: dials fail after 3 s. The way (`from`) does
   * not matter.
   */
  cut(place?: NetworkPlace): void;
  /** Ends {@link Network.cut}. */
  mend(place?: NetworkPlace): void;
  /**
   * Nothing passes any more, and nobody is told: sends are taken until the windows are full. With `on` false,
   * it passes again: connections go on when their next repetition is due, up to as long after as the darkness
   * has lasted.
   */
  blackHole(on: boolean, place?: NetworkPlace): void;
  /**
   * Changes rate, delay, jitter, queue or loss from now on. Throws `invalid-argument` if one is out of range;
   * then nothing was changed.
   */
  change(conditions: WireConditions, place?: NetworkPlace): void;
  /** Breaks every connection at both ends now. */
  resetAll(place?: NetworkPlace): void;
  /**
   * Once `bytes` more have been delivered, the connection that carries the last of them is reset: in the
   * middle of whatever it was.
   */
  resetAfter(bytes: number, place?: NetworkPlace): void;
  /**
   * Flips a bit of the next chunk of at least `chunkBytesMin` (default 1) bytes that is delivered. The
   * sender's own bytes stay as they are.
   */
  flipNextByte(place?: NetworkPlace & { readonly chunkBytesMin?: number }): void;
  /** Ends what was ordered by {@link Network.resetAfter} and {@link Network.flipNextByte} and has not come. */
  calm(place?: NetworkPlace): void;
  /** Connections with an end that is open. */
  connections(place?: NetworkPlace): readonly NetworkConnectionView[];
  /** What it has done so far. */
  statistics(): NetworkStatistics;
  /** A sum over everything that happened and when: 16 hexadecimal digits. Equal runs have equal sums. */
  digest(): string;
}

/**
 * Makes a network between hosts in one process, in which connections behave as TCP's do over the paths
 * that the options describe: they share rates and queues, start slowly, lose packets and stall. Everything
 * follows from the seed and the order of calls. Throws `invalid-argument` for options out of range.
 */
export function createNetwork(options: NetworkOptions): Network {
  return new SimulatedNetwork(options);
}

class SimulatedNetwork implements Network {
  readonly #options: NetworkOptions;
  readonly #paths: readonly Path[];
  readonly #listeners = new Map<string, SimulatedTransport>();
  readonly #powerless = new Set<string>();
  readonly #log = new EventSum();
  readonly #host: TransportHost;
  #connections = 0;
  #openEnds = 0;
  #heldBytes = 0;
  #heldBytesPeak = 0;

  constructor(options: NetworkOptions) {
    this.#options = options;
    const prng = createPrng(options.seed ?? 1);
    const pathHost: PathHost = {
      environment: options.environment,
      prng: prng.fork(),
      copy: options.copy ?? true,
      held: (bytes) => {
        this.#heldBytes += bytes;
        if (this.#heldBytes > this.#heldBytesPeak) this.#heldBytesPeak = this.#heldBytes;
      },
      note: (kind, path, connection, host, bytes) => {
        if (kind === 'open') this.#openEnds += 2;
        else if (kind === 'closed' || kind === 'broken' || kind === 'dead') this.#openEnds -= 1;
        this.#note(kind, path, connection, host, bytes);
      },
    };
    this.#host = {
      ...pathHost,
      listener: (address) => this.#listeners.get(key(address)),
      forget: (transport, powerless) => this.#forget(transport, powerless),
      hasPower: (host) => !this.#powerless.has(host),
      noteKill: (host) => this.#note('kill', '', 0, host, 0),
      nextConnection: () => ++this.#connections,
    };
    this.#paths = options.paths.map((path) => new Path(path, this.#host));
    const names = new Set(this.#paths.map((path) => path.name));
    if (names.size === 0 || names.size < this.#paths.length) {
      throw new MigrationError(
        'invalid-argument',
        'network: there must be paths, each with a name of its own',
      );
    }
  }

  transport(options: NetworkTransportOptions): NetworkTransport {
    const { host, listen, connect } = options;
    if (!this.#paths.some((path) => path.ends.includes(host))) {
      throw new MigrationError('invalid-argument', `network: no path leads to host ${host}`);
    }
    const transport = new SimulatedTransport(
      options,
      this.#pathsOf(host, connect, options.paths),
      this.#host,
    );
    if (listen !== undefined) {
      const address = key({ host, name: listen });
      if (this.#listeners.has(address)) {
        throw new MigrationError('invalid-argument', `network: ${address} is in use`);
      }
      this.#listeners.set(address, transport);
    }
    this.#powerless.delete(host);
    return transport;
  }

  cut(place: NetworkPlace = {}): void {
    for (const path of this.#at(place)) {
      path.cut = true;
      this.#note('cut', path.name, 0, '', 0);
      for (const link of [...path.links]) link.break('the path was cut');
    }
  }

  mend(place: NetworkPlace = {}): void {
    for (const path of this.#at(place)) {
      path.cut = false;
      this.#note('mend', path.name, 0, '', 0);
    }
  }

  blackHole(on: boolean, place: NetworkPlace = {}): void {
    for (const path of this.#at(place)) {
      for (const wire of wires(path, place)) wire.dark = on;
      this.#note(on ? 'dark' : 'light', path.name, 0, place.from ?? '', 0);
      if (!on) path.resume();
    }
  }

  change(conditions: WireConditions, place: NetworkPlace = {}): void {
    for (const path of this.#at(place)) {
      for (const wire of wires(path, place)) wire.change(conditions);
      this.#note('change', path.name, 0, place.from ?? '', 0);
    }
  }

  resetAll(place: NetworkPlace = {}): void {
    for (const path of this.#at(place)) {
      this.#note('reset', path.name, 0, '', 0);
      for (const link of [...path.links]) link.break('it was reset');
    }
  }

  resetAfter(bytes: number, place: NetworkPlace = {}): void {
    if (!(Number.isSafeInteger(bytes) && bytes >= 0)) {
      throw new MigrationError('invalid-argument', `network: bytes must be 0 or more, not ${bytes}`);
    }
    for (const path of this.#at(place)) {
      for (const wire of wires(path, place)) wire.resetAfterBytes = bytes;
    }
  }

  flipNextByte(place: NetworkPlace & { readonly chunkBytesMin?: number } = {}): void {
    for (const path of this.#at(place)) {
      for (const wire of wires(path, place)) wire.flipChunkBytesMin = place.chunkBytesMin ?? 1;
    }
  }

  calm(place: NetworkPlace = {}): void {
    for (const path of this.#at(place)) {
      for (const wire of wires(path, place)) {
        wire.resetAfterBytes = undefined;
        wire.flipChunkBytesMin = undefined;
      }
    }
  }

  connections(place: NetworkPlace = {}): readonly NetworkConnectionView[] {
    return this.#at(place).flatMap((path) =>
      [...path.links].map((link) => ({
        id: link.id,
        path: path.name,
        openAt: link.hosts.filter((_, index) => link.ends[index]?.open),
        reset: () => {
          this.#note('reset', path.name, link.id, '', 0);
          link.break('it was reset');
        },
      })),
    );
  }

  statistics(): NetworkStatistics {
    const paths: Record<string, readonly [WireStatistics, WireStatistics]> = {};
    for (const { name, wires: both } of this.#paths) {
      paths[name] = [both[0].statistics, both[1].statistics];
    }
    return {
      openEnds: this.#openEnds,
      connections: this.#connections,
      heldBytes: this.#heldBytes,
      heldBytesPeak: this.#heldBytesPeak,
      paths,
    };
  }

  digest(): string {
    return this.#log.toString();
  }

  #at({ path: name, from }: NetworkPlace): readonly Path[] {
    const found = this.#paths.filter(
      (path) =>
        (name === undefined || path.name === name) && (from === undefined || path.ends.includes(from)),
    );
    if (found.length > 0) return found;
    throw new MigrationError('invalid-argument', `network: no path ${name ?? ''} from ${from ?? 'any host'}`);
  }

  #pathsOf(
    host: string,
    connect: NetworkAddress | undefined,
    names: readonly string[] | undefined,
  ): readonly Path[] {
    if (connect === undefined) return [];
    const joining = this.#paths.filter((path) => path.joins(host, connect.host));
    const chosen = names?.map((name) => joining.find((path) => path.name === name)) ?? joining;
    const found = chosen.filter((path) => path !== undefined);
    if (found.length === 0 || found.length < chosen.length) {
      throw new MigrationError('invalid-argument', `network: no such path from ${host} to ${connect.host}`);
    }
    return found;
  }

  #forget(transport: SimulatedTransport, powerless: boolean): void {
    const { host, listen } = transport.options;
    if (powerless) this.#powerless.add(host);
    if (listen === undefined) return;
    const address = key({ host, name: listen });
    if (this.#listeners.get(address) === transport) this.#listeners.delete(address);
  }

  #note(kind: NetworkEvent['kind'], path: string, connection: number, host: string, bytes: number): void {
    const { environment, observe } = this.#options;
    const atMs = environment.now();
    this.#log.add(kind, atMs, connection, host, bytes);
    observe?.({ atMs, kind, path, connection, host, bytes });
  }
}

/** The ways of a path that a fault strikes. */
function wires(path: Path, { from }: NetworkPlace): readonly Wire[] {
  return from === undefined ? path.wires : [path.wireFrom(from)];
}

function key({ host, name }: NetworkAddress): string {
  return `${host}/${name}`;
}

/** Sums up events in their order. */
class EventSum {
  #high = 0x9e3779b9;
  #low = 0x85ebca6b;
  readonly #names = new Map<string, number>();

  add(kind: string, atMs: number, connection: number, host: string, bytes: number): void {
    // Microseconds, as two words.
    const micros = Math.floor(atMs * 1000);
    this.#mix(this.#number(kind) * 64 + this.#number(host));
    this.#mix(micros);
    this.#mix(Math.floor(micros / 4_294_967_296) ^ connection);
    this.#mix(bytes);
  }

  toString(): string {
    return [this.#high, this.#low].map((word) => (word >>> 0).toString(16).padStart(8, '0')).join('');
  }

  #number(name: string): number {
    let number = this.#names.get(name);
    if (number === undefined) {
      number = this.#names.size + 1;
      this.#names.set(name, number);
    }
    return number;
  }

  #mix(value: number): void {
    this.#high = Math.imul(this.#high ^ value, 0x85ebca6b);
    this.#high = (this.#high << 13) | (this.#high >>> 19);
    this.#low = Math.imul(this.#low ^ value ^ this.#high, 0xc2b2ae35);
    this.#low ^= this.#low >>> 15;
  }
}
