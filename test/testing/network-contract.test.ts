// Goal: the simulated network keeps the transport contract, also where it is slow, lossy, jittery and of
// several paths.
// Method: the contract's own tests, in virtual time.
import { describe, test } from 'vitest';
import { createNetwork, type NetworkOptions } from '../../src/testing/sim/network.ts';
import { createVirtualEnvironment } from '../../src/testing/virtual-time.ts';
import { delay } from '../../src/util/promises.ts';
import { breakContract, transportContract } from '../transports/transport-contract.ts';
import type { TestFunction } from '../transports/transport-pair.ts';

function contract(name: string, options: Omit<NetworkOptions, 'environment'>): void {
  describe(name, () => {
    let environment = createVirtualEnvironment();
    const inVirtualTime: TestFunction = (title, run) =>
      test(title, async () => {
        environment = createVirtualEnvironment();
        await environment.run(run());
      });
    const make = async () => {
      const network = createNetwork({ ...options, environment });
      const source = network.transport({ host: 'source', connect: { host: 'destination', name: 'vm' } });
      const destination = network.transport({ host: 'destination', listen: 'vm' });
      return {
        source,
        destination,
        settle: () => delay(environment, 20_000),
        close: async () => {
          await Promise.all([source.close(), destination.close()]);
        },
        cut: () => network.resetAll(),
      };
    };
    transportContract(inVirtualTime, make);
    breakContract(inVirtualTime, make);
  });
}

contract('a network without limits keeps the contract', { paths: [{ name: 'lan' }] });

contract('a far network with limits keeps the contract', {
  paths: [{ name: 'wan', rateMbit: 200, delayMs: 40 }],
});

contract('a lossy and jittery network keeps the contract', {
  seed: 5,
  paths: [
    {
      name: 'radio',
      rateMbit: 100,
      delayMs: 20,
      jitterMs: 10,
      lossProbability: 0.01,
      back: { rateMbit: 10 },
    },
  ],
});

contract('a network of bbr connections keeps the contract', {
  paths: [{ name: 'wan', rateMbit: 200, delayMs: 40, lossProbability: 0.001, congestion: 'bbr' }],
});
