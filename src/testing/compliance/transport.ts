/**
 * What every transport owes the engine. Each test makes two hosts, opens connections from the source to the
 * destination, and looks only at what the interfaces promise.
 */
import type { Connection, Transport } from '../../interfaces/transport.ts';
import { checkRejects } from './check.ts';
import { eachWith, type Fixture, type TestFunction } from './test-function.ts';
import { endingTests } from './transport-endings.ts';
import { openingTests } from './transport-opening.ts';
import { streamTests } from './transport-streams.ts';
import { collect, connect, fill, remembering } from './transport-support.ts';

/** Two hosts and the network between them, for one test. */
export interface TransportFixture extends Fixture {
  /** Opens connections to the destination. */
  readonly source: Transport;
  /** Accepts them. */
  readonly destination: Transport;
  /**
   * Resolves when nothing has moved by itself for a while: what was sent has arrived, or is held back. Some
   * tens of milliseconds for sockets of this machine.
   */
  settle(): Promise<void>;
  /** Closes both transports, and frees everything. Connections have been aborted before. */
  close(): Promise<void>;
}

/** Two hosts and a network that can be broken. */
export interface BreakableTransportFixture extends TransportFixture {
  /** Breaks every connection, at both ends; new ones can be opened at once. */
  cut(): void;
}

/** What {@link transportCompliance} takes. */
export interface TransportComplianceOptions {
  /** The runner's test function. */
  readonly test: TestFunction;
  /** Called once for each test. */
  create(): Promise<TransportFixture>;
  /** The same with a network that breaks. Left out, nothing is tested of what then happens. */
  createBreakable?(): Promise<BreakableTransportFixture>;
}

/** Declares the tests that every {@link Transport} passes. */
export function transportCompliance({ test, create, createBreakable }: TransportComplianceOptions): void {
  const withPair = eachWith(test, async () => tidied(await create()));
  streamTests(withPair);
  endingTests(withPair);
  openingTests(withPair);
  if (createBreakable !== undefined) breakTests(test, createBreakable);
}

/** The part of {@link transportCompliance} that needs a network that breaks. */
export function breakTests(test: TestFunction, create: () => Promise<BreakableTransportFixture>): void {
  const withPair = eachWith(test, async () => tidied(await create()));
  withPair('a connection that breaks is lost at both ends, not ended', async (pair) => {
    const { near, far } = await connect(pair);
    const { waiting } = await fill(near, pair);
    const received = collect(near);
    received.catch(() => {});
    pair.cut();
    await checkRejects(waiting, 'connection-lost', 'send() that waited when the connection broke');
    await checkRejects(received, 'connection-lost', 'receive() at the end that sent');
    await checkRejects(collect(far), 'connection-lost', 'receive() at the other end');
    await near.close();
    await far.close();
    const again = await connect(pair);
    await again.near.send([Uint8Array.of(1)]);
    await Promise.all([collect(again.far), again.near.close()]);
  });
}

/** The same hosts; what they opened or accepted is aborted before they are closed. */
function tidied<T extends TransportFixture>(pair: T): T {
  const connections: Connection[] = [];
  return {
    ...pair,
    source: remembering(pair.source, connections),
    destination: remembering(pair.destination, connections),
    settle: () => pair.settle(),
    close: async () => {
      for (const connection of connections) connection.abort();
      await pair.close();
    },
  };
}
