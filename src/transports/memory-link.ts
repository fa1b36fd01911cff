import { MigrationError } from '../errors.ts';
import type { CallOptions } from '../interfaces/content.ts';
import type { Environment } from '../interfaces/environment.ts';
import type { Connection, Transport, TransportCapabilities } from '../interfaces/transport.ts';
import { AcceptQueue, transportClosed } from '../util/accept-queue.ts';
import { nodeEnvironment } from '../util/node-environment.ts';
import { delay, throwIfAborted } from '../util/promises.ts';
import { type DirectionSettings, LinkDirection } from './link-direction.ts';
import { MemoryConnection } from './memory-connection.ts';
import type { Pipe } from './pipe.ts';

/** What {@link memoryLink} takes. */
export interface MemoryLinkOptions {
  /** The round trip, half of it each way: 0 to 60,000. Default 0. */
  readonly rttMs?: number;
  /**
   * The rate of each direction, shared by all connections, in 10^6 bits a second of payload: more than 0.
   * Default: no limit.
   */
  readonly rateMbit?: number;
  /**
   * What each direction queues in front of the wire, at the least one turn of the round robin: 1 byte to 1
   * GiB. Default: what the wire takes for 20 ms, and no more than 32 MiB. It is how late a small message can
   * come because of other connections' data.
   */
  readonly queueBytes?: number;
  /** Time. Default: the process's own. */
  readonly environment?: Environment;
}

/** What one direction of a {@link MemoryLink} has done. */
export interface LinkDirectionStatistics {
  /** Bytes that have arrived at the other end. */
  readonly deliveredBytes: number;
  /** Bytes that were sent and have not arrived: those that wait and those that travel. */
  readonly pendingBytes: number;
}

/** What {@link MemoryLink.statistics} tells. */
export interface MemoryLinkStatistics {
  readonly toDestination: LinkDirectionStatistics;
  readonly toSource: LinkDirectionStatistics;
  /** Connections that are open now, those included that were not accepted yet. */
  readonly connections: number;
}

/** A network in one process. */
export interface MemoryLink {
  /** The transport of the source host. Either transport can open connections that the other accepts. */
  readonly source: Transport;
  /** The transport of the destination host. */
  readonly destination: Transport;
  /** Breaks every connection now, at both ends (`connection-lost`); new ones can be opened at once. */
  cut(): void;
  /** What the link has done so far. */
  statistics(): MemoryLinkStatistics;
}

/**
 * Timers of a real process fire a millisecond or two late, and ten are not rare. Twice that is what a queue
 * holds, as a well-kept router's does, and what the window has beside it to keep the wire busy meanwhile.
 */
const queueMsDefault = 20;
const lateMsMax = 20;
const queueBytesMax = 32 * 1024 * 1024;

/** What a receiver may leave unread beside what the link itself holds. */
const receiveBytesMax = 1024 * 1024;

/** The most that a connection can have on its way: 10 Gbit/s over 200 ms. */
const windowBytesMax = 256 * 1024 * 1024;

/**
 * Makes a network between two hosts in one process. It carries copies, as any network does. Connections
 * share a direction's rate in turns of a millisecond's worth (1500 bytes to 64 KiB), a receiver that does not
 * read holds its sender back, and opening a connection takes a round trip. A transport that was not closed is
 * listening; 64 connections wait to be accepted, and more are refused.
 *
 * Throws `invalid-argument` if an option is out of range.
 */
export function memoryLink(options: MemoryLinkOptions = {}): MemoryLink {
  const settings = derive(options);
  const toDestination = new LinkDirection(settings);
  const toSource = new LinkDirection(settings);
  const connections = new Set<MemoryConnection>();
  let opened = 0;

  const pair = (near: string, far: string, out: Pipe, back: Pipe): ConnectionPair => {
    opened += 1;
    const ours = new MemoryConnection(`memory link ${opened} to ${far}`, out, back);
    const theirs = new MemoryConnection(`memory link ${opened} from ${near}`, back, out);
    for (const connection of [ours, theirs]) {
      connections.add(connection);
      void connection.gone.then(() => connections.delete(connection));
    }
    return { ours, theirs };
  };
  const atSource = new AcceptQueue<MemoryConnection>();
  const atDestination = new AcceptQueue<MemoryConnection>();
  const travel = (signal: AbortSignal | undefined) =>
    settings.delayMs === 0 ? Promise.resolve() : delay(settings.environment, settings.delayMs, signal);

  return {
    source: new MemoryTransport(atSource, (signal) => {
      const both = pair('source', 'destination', toDestination.pipe(), toSource.pipe());
      return dial(both, atDestination, travel, signal);
    }),
    destination: new MemoryTransport(atDestination, (signal) => {
      const both = pair('destination', 'source', toSource.pipe(), toDestination.pipe());
      return dial(both, atSource, travel, signal);
    }),
    cut: () => {
      for (const connection of [...connections]) connection.lose('the link was cut');
    },
    statistics: () => ({
      toDestination: directionStatistics(toDestination),
      toSource: directionStatistics(toSource),
      connections: Math.ceil(connections.size / 2),
    }),
  };
}

class MemoryTransport implements Transport {
  readonly capabilities: TransportCapabilities = { open: true, accept: true };
  readonly paths = 1;
  readonly #queue: AcceptQueue<MemoryConnection>;
  readonly #dial: (signal: AbortSignal | undefined) => Promise<Connection>;
  #closed = false;

  constructor(
    queue: AcceptQueue<MemoryConnection>,
    dial: (signal: AbortSignal | undefined) => Promise<Connection>,
  ) {
    this.#queue = queue;
    this.#dial = dial;
  }

  async open(options: CallOptions & { readonly path?: number } = {}): Promise<Connection> {
    if ((options.path ?? 0) !== 0) {
      throw new MigrationError('invalid-argument', `memory link: there is no path ${options.path}`);
    }
    if (this.#closed) throw transportClosed('memory link');
    throwIfAborted(options.signal);
    return this.#dial(options.signal);
  }

  accept(options: CallOptions = {}): Promise<Connection> {
    return this.#queue.take(options.signal);
  }

  async close(): Promise<void> {
    this.#closed = true;
    this.#queue.close(transportClosed('memory link'));
  }
}

interface ConnectionPair {
  readonly ours: MemoryConnection;
  readonly theirs: MemoryConnection;
}

/** After half a round trip the peer has the connection, after a whole one we know. */
async function dial(
  { ours, theirs }: ConnectionPair,
  peer: AcceptQueue<MemoryConnection>,
  travel: (signal: AbortSignal | undefined) => Promise<void>,
  signal: AbortSignal | undefined,
): Promise<Connection> {
  try {
    await travel(signal);
    const taken = !ours.broken && peer.offer(theirs);
    await travel(signal);
    throwIfAborted(signal);
    if (!taken || ours.broken) {
      throw new MigrationError('connect-failed', `${ours.label}: the peer refused it, or the link was cut`);
    }
    return ours;
  } catch (error) {
    ours.abort(error);
    throw error;
  }
}

function derive(options: MemoryLinkOptions): DirectionSettings {
  const {
    rttMs = 0,
    rateMbit = Number.POSITIVE_INFINITY,
    queueBytes,
    environment = nodeEnvironment,
  } = options;
  check('rttMs', rttMs, rttMs >= 0 && rttMs <= 60_000, '0 to 60,000');
  check('rateMbit', rateMbit, rateMbit > 0, 'more than 0');
  const delayMs = rttMs / 2;
  const bytesPerMs = rateMbit * 125;
  let queueMs = Math.min(queueMsDefault, queueBytesMax / bytesPerMs);
  if (queueBytes !== undefined) {
    check('queueBytes', queueBytes, queueBytes >= 1 && queueBytes <= 1024 ** 3, '1 to 1 GiB');
    queueMs = queueBytes / bytesPerMs;
  }
  // A link without limit holds nothing, or, if there is a delay, whatever the window allows.
  const heldMs = bytesPerMs === Number.POSITIVE_INFINITY ? delayMs : queueMs + delayMs + lateMsMax;
  const linkBytes = heldMs === 0 ? 0 : heldMs * bytesPerMs;
  const windowBytes = Math.min(windowBytesMax, Math.ceil(linkBytes) + receiveBytesMax);
  return { environment, delayMs, bytesPerMs, queueMs, windowBytes };
}

function check(name: string, value: number, valid: boolean, range: string): void {
  if (!valid) {
    throw new MigrationError('invalid-argument', `memory link: ${name} must be ${range}, not ${value}`);
  }
}

function directionStatistics(direction: LinkDirection): LinkDirectionStatistics {
  return { deliveredBytes: direction.deliveredBytes, pendingBytes: direction.pendingBytes };
}
