import {
  createDestination,
  createSource,
  type MemoryLinkOptions,
  type MigrationPolicy,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type Transport,
} from '../../src/index.ts';
import {
  type ComparisonOptions,
  compareSimulatedVms,
  type SimulatedComparison,
} from '../../src/testing/sim/compare.ts';
import {
  createSimulatedBackend,
  type SimulatedBackend,
  type SimulatedBackendOptions,
} from '../../src/testing/sim/hypervisor.ts';
import { createSimulatedVm, type SimulatedVm, type SimulatedVmOptions } from '../../src/testing/sim/vm.ts';
import type { VmEvent } from '../../src/testing/sim/vm-events.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../support/virtual-environment.ts';

export const mebibyte = 1 << 20;

/** A simulated VM, a host to move it to, a link between them, and everything that happened. */
export interface VmWorld {
  readonly environment: VirtualEnvironment;
  readonly vm: SimulatedVm;
  readonly backend: SimulatedBackend;
  readonly events: readonly VmEvent[];
  /** Taken at the destination, after the owner claim and before the guest runs. */
  readonly comparison: () => SimulatedComparison | undefined;
  migrate(policy?: MigrationPolicy): Promise<{
    readonly source: MigrationReport;
    readonly destination: MigrationReport;
  }>;
}

export interface VmWorldOptions {
  /** Default: a new one. */
  readonly environment?: VirtualEnvironment;
  readonly vm?: Partial<SimulatedVmOptions>;
  readonly backend?: Partial<SimulatedBackendOptions>;
  readonly link?: MemoryLinkOptions;
  readonly transports?: { readonly source: Transport; readonly destination: Transport };
  readonly compare?: ComparisonOptions;
  readonly onEvent?: (event: VmEvent, world: VmWorld) => void;
}

/** By default 16 MiB of memory, and two disks of odd sizes, a quarter full. */
export function createVmWorld(options: VmWorldOptions = {}): VmWorld {
  const environment = options.environment ?? createVirtualEnvironment();
  const events: VmEvent[] = [];
  let comparison: SimulatedComparison | undefined;
  let world: VmWorld | undefined;
  const observe = (event: VmEvent) => {
    events.push(event);
    const there = backend.vms.at(-1);
    if (event.kind === 'started' && there !== undefined) {
      comparison = compareSimulatedVms(vm, there, options.compare);
    }
    if (world !== undefined) options.onEvent?.(event, world);
  };
  const backend = createSimulatedBackend({ environment, observe, ...options.backend });
  const vm = createSimulatedVm({
    environment,
    observe,
    vmId: 'vm-1',
    memory: { sizeBytes: 16 * mebibyte, usedFraction: 0.75 },
    disks: [
      { id: 'disk0', sizeBytes: 24 * mebibyte + 512, allocatedFraction: 0.25 },
      { id: 'disk1', sizeBytes: 4 * mebibyte, blockBytes: 512, allocatedFraction: 0.25 },
    ],
    ...options.vm,
  });
  world = {
    environment,
    vm,
    backend,
    events,
    comparison: () => comparison,
    migrate: async (policy) => {
      const link =
        options.transports ?? memoryLink({ rttMs: 2, rateMbit: 2000, ...options.link, environment });
      const source = createSource({
        vm: vm.attachSource(),
        transport: link.source,
        register: memoryRegister(),
        policy: { connectMsMax: 5000, decideMsMax: 1000, ...policy },
        environment,
      });
      const destination = createDestination({
        backend,
        transport: link.destination,
        register: memoryRegister(),
        environment,
      });
      const [sourceReport, destinationReport] = await environment.run(
        Promise.all([source.run(), destination.run()]),
      );
      return { source: sourceReport, destination: destinationReport };
    },
  };
  return world;
}
