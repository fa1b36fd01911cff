import {
  compareVms,
  createMemoryBackend,
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
} from '../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type Migration,
  type MigrationPolicy,
  type MigrationReport,
  memoryRegister,
} from '../../src/index.ts';
import { createNetwork, type Network, type NetworkOptions } from '../../src/testing/sim/network.ts';
import type { NetworkTransport } from '../../src/testing/sim/network-transport.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../src/testing/virtual-time.ts';
import { mebibyte, withChanges } from '../support/worlds.ts';

/** A VM on the host `source`, and a simulated network over which it can be moved to `destination`. */
export interface NetworkWorld {
  readonly environment: VirtualEnvironment;
  readonly network: Network;
  readonly vm: MemoryVm;
  /** Both ends of a new attempt. */
  attempt(policy?: MigrationPolicy): Attempt;
  /** Lets everything end by itself that does, without the guests. */
  settle(): Promise<void>;
}

export interface Attempt {
  readonly source: Migration;
  readonly destination: Migration;
  readonly transports: { readonly source: NetworkTransport; readonly destination: NetworkTransport };
  /** Runs both ends; one that has not come to its end after ten minutes has no report. */
  run(): Promise<Reports>;
  /** The VM at the destination, once it was started. */
  readonly moved: () => MemoryVm | undefined;
  /** Whether both VMs were equal when the one at the destination was started. */
  readonly equal: () => boolean | undefined;
}

export interface Reports {
  readonly source: MigrationReport | undefined;
  readonly destination: MigrationReport | undefined;
}

const limitMs = 600_000;

export function createNetworkWorld(options: Omit<NetworkOptions, 'environment'>): NetworkWorld {
  const environment = createVirtualEnvironment(options.seed);
  const network = createNetwork({ ...options, environment });
  const registers = { source: memoryRegister(), destination: memoryRegister() };
  const vm = createMemoryVm({
    environment,
    vmId: 'vm-1',
    memoryBytes: 2 * mebibyte,
    disks: [{ id: 'disk0', sizeBytes: 3 * mebibyte + 512, allocatedFraction: 0.8 }],
    seed: options.seed ?? 1,
  });
  // Slow enough for the slowest network of these tests.
  vm.startWorkload(randomWriter({ disk: 'disk0', bytes: 4096, writesPerSecond: 10, hotBytes: mebibyte }));
  vm.startWorkload(memoryDirtier({ bytesPerSecond: 64 << 10, hotBytes: 64 << 10 }));
  let attempts = 0;

  const attempt = (policy: MigrationPolicy = {}): Attempt => {
    const name = `attempt-${++attempts}`;
    const transports = {
      source: network.transport({ host: 'source', connect: { host: 'destination', name } }),
      destination: network.transport({ host: 'destination', listen: name }),
    };
    const backend = createMemoryBackend({ environment });
    let equal: boolean | undefined;
    const comparing = withChanges(backend, {
      prepare: async (description, call) => {
        const prepared = await backend.prepare(description, call);
        return withChanges(prepared, {
          start: async ({ run }) => {
            await prepared.start({ run: false });
            if (backend.vm === undefined) throw new Error('the backend started nothing');
            equal = compareVms(vm, backend.vm).equal;
            if (run) backend.vm.run();
          },
        });
      },
    });
    const source = createSource({
      vm: vm.source(),
      transport: transports.source,
      register: registers.source,
      policy: { connectMsMax: 5000, decideMsMax: 5000, ...policy },
      environment,
    });
    const destination = createDestination({
      backend: comparing,
      transport: transports.destination,
      register: registers.destination,
      connectMsMax: 20_000,
      environment,
    });
    const run = async (): Promise<Reports> => {
      const reports: { source: MigrationReport | undefined; destination: MigrationReport | undefined } = {
        source: undefined,
        destination: undefined,
      };
      const ends = (['source', 'destination'] as const).map(async (end) => {
        reports[end] = await { source, destination }[end].run();
      });
      const limit = new Promise<void>((resolve) => environment.setTimer(limitMs, resolve));
      await environment.run(Promise.race([Promise.all(ends), limit]));
      for (const transport of Object.values(transports)) void transport.close();
      return reports;
    };
    return { source, destination, transports, run, moved: () => backend.vm, equal: () => equal };
  };

  return {
    environment,
    network,
    vm,
    attempt,
    settle: () => environment.run(environment.now() + 30_000),
  };
}
