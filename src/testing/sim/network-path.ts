import { MigrationError } from '../../errors.ts';
import type { Environment } from '../../interfaces/environment.ts';
import type { Prng } from '../../util/prng.ts';
import { type CongestionName, createCongestionControl } from './network-congestion.ts';
import { type EndOver, NetworkConnection } from './network-connection.ts';
import { Flow, type FlowEvent } from './network-flow.ts';
import { Wire, type WireConditions } from './network-wire.ts';

/** A path between two hosts: its conditions hold both ways, except where `back` says otherwise. */
export interface PathOptions extends WireConditions {
  /** What the path is called. */
  readonly name: string;
  /** The hosts at its ends. Default: `source` and `destination`. */
  readonly ends?: readonly [string, string];
  /** What is different on the way from the second end to the first. */
  readonly back?: WireConditions;
  /** How its connections react to loss. Default `cubic`. */
  readonly congestion?: CongestionName;
  /**
   * What one connection may have on its way or waiting for its consumer, each way: 64 KiB to 1 GiB. Default 4
   * MiB, the most that Linux gives a socket by default; at a round trip of 200 ms that is 160 Mbit/s.
   */
  readonly windowBytes?: number;
}

/** What a path needs of the network that it is a part of. */
export interface PathHost {
  readonly environment: Environment;
  readonly prng: Prng;
  readonly copy: boolean;
  held(bytes: number): void;
  note(event: LinkEvent, path: string, connection: number, from: string, bytes: number): void;
}

/** What happens to connections. */
export type LinkEvent =
  | FlowEvent
  /** A dial found a listener: there is a connection. */
  | 'open'
  /** An end is over: the peer closed it, it was lost or aborted, its process died. */
  | 'closed'
  | 'broken'
  | 'dead';

/** Two ends and what is between them. */
export class Link {
  readonly id: number;
  readonly path: Path;
  /** The host that dialled, and the one that was dialled. */
  readonly hosts: readonly [string, string];
  readonly ends: readonly [NetworkConnection, NetworkConnection];
  readonly flows: readonly [Flow, Flow];

  constructor(id: number, path: Path, hosts: readonly [string, string], host: PathHost) {
    this.id = id;
    this.path = path;
    this.hosts = hosts;
    const [near, far] = hosts;
    const there = this.#flow(host, near);
    const back = this.#flow(host, far);
    this.flows = [there, back];
    this.ends = [
      new NetworkConnection(`${path.name} #${id} ${near} to ${far}`, there, back, this.#onOver(host, near)),
      new NetworkConnection(`${path.name} #${id} ${far} from ${near}`, back, there, this.#onOver(host, far)),
    ];
    path.links.add(this);
    host.note('open', path.name, id, near, 0);
  }

  /** Breaks it at both ends at once. */
  break(what: string): void {
    for (const end of this.ends) if (end.open) end.lose(what);
  }

  #flow(host: PathHost, from: string): Flow {
    const { path } = this;
    const flow: Flow = new Flow({
      environment: host.environment,
      prng: host.prng.fork(),
      out: path.wireFrom(from),
      back: path.wireFrom(path.otherEnd(from)),
      congestion: createCongestionControl(path.congestion),
      windowBytes: path.windowBytes,
      copy: host.copy,
      held: (bytes) => host.held(bytes),
      note: (event, bytes) => host.note(event, path.name, this.id, from, bytes),
      broken: () => this.break('it was reset'),
    });
    return flow;
  }

  #onOver(host: PathHost, at: string): EndOver {
    return (how) => {
      host.note(how, this.path.name, this.id, at, 0);
      if (!this.ends.some((end) => end.open)) this.path.links.delete(this);
    };
  }
}

/** Two wires and the connections that run over them. */
export class Path {
  readonly name: string;
  readonly ends: readonly [string, string];
  readonly congestion: CongestionName;
  readonly windowBytes: number;
  readonly wires: readonly [Wire, Wire];
  /** Those with an end that is open. */
  readonly links = new Set<Link>();
  /** No connection can be made or kept. */
  cut = false;

  constructor(options: PathOptions, host: PathHost) {
    const { name, ends = ['source', 'destination'], back = {}, congestion = 'cubic' } = options;
    const { windowBytes = 4 << 20, ...conditions } = options;
    if (!(windowBytes >= 64 << 10 && windowBytes <= 1 << 30)) {
      throw new MigrationError(
        'invalid-argument',
        `network: windowBytes must be 64 KiB to 1 GiB, not ${windowBytes}`,
      );
    }
    if (ends[0] === ends[1]) {
      throw new MigrationError('invalid-argument', `network: path ${name} leads from ${ends[0]} to itself`);
    }
    this.name = name;
    this.ends = ends;
    this.congestion = congestion;
    this.windowBytes = windowBytes;
    const { environment, prng } = host;
    this.wires = [
      new Wire(environment, prng.fork(), conditions),
      new Wire(environment, prng.fork(), { ...conditions, ...back }),
    ];
  }

  joins(one: string, other: string): boolean {
    return this.ends.includes(one) && this.otherEnd(one) === other;
  }

  otherEnd(host: string): string {
    return this.ends[0] === host ? this.ends[1] : this.ends[0];
  }

  wireFrom(host: string): Wire {
    return this.ends[0] === host ? this.wires[0] : this.wires[1];
  }

  /** What was parked in the dark goes on, where it is light again. */
  resume(): void {
    for (const link of [...this.links]) for (const flow of link.flows) flow.resume();
  }
}
