/**
 * Goal: every transport is what the engine takes a transport for. Method: the compliance suite on real
 * sockets of this machine, its part about breaking through a relay that can be cut; on a memory link without
 * limits in real time; on a slow and far one in virtual time; and again through a wrapper without faults.
 */
import { describe, test } from 'vitest';
import {
  type BreakableTransportFixture,
  faultyTransport,
  type TestFunction,
  type TransportFault,
  type TransportFixture,
  transportCompliance,
} from '../../../src/testing/index.ts';
import { type MemoryLink, memoryLink } from '../../../src/transports/memory-link.ts';
import { nodeEnvironment } from '../../../src/util/node-environment.ts';
import { delay } from '../../../src/util/promises.ts';
import { createVirtualEnvironment } from '../../support/virtual-environment.ts';
import { loopback, relayed } from '../../transports/tcp-pairs.ts';

function overLink(link: MemoryLink, settle: () => Promise<void>): BreakableTransportFixture {
  const close = async () => {
    await Promise.all([link.source.close(), link.destination.close()]);
  };
  return { source: link.source, destination: link.destination, cut: link.cut, settle, close };
}

/**
 * The same hosts through wrappers: connection faults that never come, so that each byte goes through them.
 */
function wrapped<T extends TransportFixture>(create: () => Promise<T>): () => Promise<T> {
  const faults: TransportFault[] = (['sent', 'received'] as const).map((way) => {
    return { on: 'connection', nth: 'every', do: 'drop', way, atByte: Number.MAX_SAFE_INTEGER };
  });
  return async () => {
    const pair = await create();
    return {
      ...pair,
      source: faultyTransport(pair.source, faults),
      destination: faultyTransport(pair.destination, faults),
    };
  };
}

describe('tcp', () => transportCompliance({ test, create: loopback, createBreakable: relayed }));

describe('tcp through a wrapper without faults', () => {
  transportCompliance({ test, create: wrapped(loopback), createBreakable: wrapped(relayed) });
});

describe('a memory link without limits', () => {
  const create = async () => overLink(memoryLink(), () => delay(nodeEnvironment, 20));
  transportCompliance({ test, create, createBreakable: create });
});

describe('a slow and far memory link', () => {
  let environment = createVirtualEnvironment();
  const inVirtualTime: TestFunction = (name, run) =>
    test(name, async () => {
      environment = createVirtualEnvironment();
      await environment.run(run());
    });
  const create = async () =>
    overLink(memoryLink({ rttMs: 80, rateMbit: 100, environment }), () => delay(environment, 10_000));
  transportCompliance({ test: inVirtualTime, create, createBreakable: create });
  describe('through a wrapper without faults', () => {
    transportCompliance({
      test: inVirtualTime,
      create: wrapped(create),
      createBreakable: wrapped(create),
    });
  });
});
