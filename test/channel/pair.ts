import type { Channel } from '../../src/channel/channel.ts';
import { type AcceptOptions, ChannelAcceptor, connectChannel } from '../../src/channel/connect.ts';
import type { CreditShare } from '../../src/channel/credit-pool.ts';
import { type DialOptions, dial, type GreetedConnection } from '../../src/channel/handshake.ts';
import {
  type Connection,
  type Environment,
  type MemoryLink,
  type MemoryLinkOptions,
  memoryLink,
  type Transport,
} from '../../src/index.ts';
import { chunksLength } from '../../src/util/chunks.ts';
import type { FrameClass, IncomingFrame } from '../../src/wire/frame.ts';
import { encodeGreeting, type Greeting, type Purpose, versions } from '../../src/wire/greeting.ts';
import { encodeItem, type ItemRange } from '../../src/wire/item.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';
import { withChanges } from '../support/worlds.ts';

/** A link and an acceptor at its far end, in virtual time, each part open to be replaced by a faulty one. */
export interface AcceptingWorld {
  readonly environment: VirtualEnvironment;
  readonly link: MemoryLink;
  readonly acceptor: ChannelAcceptor;
}

export interface PairOptions {
  readonly link?: MemoryLinkOptions;
  readonly acceptor?: Partial<AcceptOptions>;
  readonly near?: (transport: Transport) => Transport;
  readonly far?: (transport: Transport) => Transport;
}

const windowBytesMax = 8 << 20;

export function createAcceptor(options: PairOptions = {}): AcceptingWorld {
  const environment = createVirtualEnvironment();
  const link = memoryLink({ rttMs: 2, rateMbit: 1000, ...options.link, environment });
  const acceptor = new ChannelAcceptor({
    environment,
    windowBytesMax,
    transport: options.far?.(link.destination) ?? link.destination,
    greetingMsMax: 1000,
    sessions: true,
    onQuestion: async ({ connection }) => connection.abort(),
    ...options.acceptor,
  });
  return { environment, link, acceptor };
}

export interface PairWorld extends AcceptingWorld {
  readonly near: Channel;
  readonly far: Channel;
}

/** A transport whose connections that are opened here send by `send`. */
export function sendingBy(
  transport: Transport,
  send: (connection: Connection, chunks: readonly Uint8Array[]) => Promise<void>,
): Transport {
  return withChanges(transport, {
    open: async (options) => {
      const connection = await transport.open(options);
      return withChanges(connection, { send: (chunks) => send(connection, chunks) });
    },
  });
}

/** Two channels, connected. */
export async function createPair(options: PairOptions = {}): Promise<PairWorld> {
  const world = createAcceptor(options);
  const { environment, link, acceptor } = world;
  const [near, far] = await environment.run(
    Promise.all([
      connectChannel({
        environment,
        windowBytesMax,
        transport: options.near?.(link.source) ?? link.source,
        vmId: 'v',
        connections: 2,
        limitMs: 1000,
        signal: undefined,
      }),
      acceptor.channel(undefined),
    ]),
  );
  return { ...world, near, far };
}

const laneFor = (purpose: Purpose) => (purpose === 'data' ? 1 : 0);

export function greeting(purpose: Purpose, fill: number, changes: Partial<Greeting> = {}): Uint8Array {
  return encodeGreeting({
    ...versions,
    purpose,
    lane: laneFor(purpose),
    session: new Uint8Array(16).fill(fill),
    nonce: new Uint8Array(32).fill(fill),
    vmId: 'v',
    ...changes,
  });
}

/** A connection of a session that is made up: greets, proves itself, and is let in or not. */
export function dialBy(
  { environment, link }: { readonly environment: Environment; readonly link: MemoryLink },
  purpose: Purpose,
  fill: number,
  changes: Partial<DialOptions> = {},
): Promise<GreetedConnection> {
  return dial(link.source, {
    purpose,
    lane: laneFor(purpose),
    session: new Uint8Array(16).fill(fill),
    vmId: 'v',
    environment,
    limitMs: 2000,
    signal: undefined,
    ...changes,
  });
}

export const item = (offset: number, bytes: number): readonly ItemRange[] => [
  { space: 0, offset, length: bytes, content: [new Uint8Array(bytes).fill(offset & 0xff)] },
];

/** A frame as it would arrive; its checksum has been looked at. */
export function arriving(
  number: number,
  ranges: readonly ItemRange[],
  kind: FrameClass = 'bulk',
): IncomingFrame {
  const payload = encodeItem(ranges);
  const payloadBytes = chunksLength(payload);
  const frame = {
    type: 'data',
    class: kind,
    stream: 1,
    number,
    payload,
    payloadBytes,
    payloadCrc: 0,
  } as const;
  return { ...frame, sequence: 1, release: () => {} };
}

/** How a promise stands once `ms` have passed: what it came to, or `pending`. */
export async function stateAfter<T>(
  environment: VirtualEnvironment,
  ms: number,
  promise: Promise<T>,
): Promise<T | 'pending' | { readonly error: unknown }> {
  let state: T | 'pending' | { readonly error: unknown } = 'pending';
  promise.then(
    (value) => {
      state = value;
    },
    (error: unknown) => {
      state = { error };
    },
  );
  await environment.run(environment.now() + ms);
  return state;
}

/** Credit that is always the same. */
export function fixedCredit(bytes: number): CreditShare {
  let appliedBytes = 0;
  return {
    get creditBytes() {
      return appliedBytes + bytes;
    },
    applied: (more) => {
      appliedBytes += more;
    },
    returnedBytes: 0,
    returned: () => true,
  };
}
