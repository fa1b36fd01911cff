import {
  compareVms,
  createMemoryBackend,
  createMemoryVm,
  type MemoryBackend,
  type MemoryDisk,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
  sequentialWriter,
  type VmComparison,
} from '../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type DestinationHooks,
  type DestinationVm,
  type HypervisorBackend,
  type MemoryLink,
  type MemoryLinkOptions,
  type Migration,
  type MigrationPolicy,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type OwnershipRegister,
  type SourceMigration,
  type SourceVm,
  type Transport,
} from '../../src/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from './virtual-environment.ts';

/** Everything of a small migration in one process, in virtual time, with each part open to be replaced by a faulty one. */
export interface World {
  readonly environment: VirtualEnvironment;
  readonly vm: MemoryVm;
  readonly backend: MemoryBackend;
  readonly link: MemoryLink;
  readonly registers: { readonly source: OwnershipRegister; readonly destination: OwnershipRegister };
  /** Taken at the destination, after the owner claim and before the guest runs. */
  readonly comparison: () => VmComparison | undefined;
  readonly source: SourceMigration;
  readonly destination: Migration;
  run(signals?: { source?: AbortSignal; destination?: AbortSignal }): Promise<{
    readonly source: MigrationReport;
    readonly destination: MigrationReport;
  }>;
  /** As `run`, but the source only rehearses. */
  rehearse: World['run'];
}

export interface WorldOptions {
  /** Has to be the one that `vm` runs on. Default: a new one. */
  readonly environment?: VirtualEnvironment;
  readonly vm?: MemoryVm;
  readonly idle?: boolean;
  /** That are there already at the destination. */
  readonly disks?: readonly MemoryDisk[];
  readonly link?: MemoryLinkOptions;
  /** What each end has of the link. Default: the link itself. */
  readonly transport?: (transport: Transport) => Transport;
  readonly policy?: MigrationPolicy;
  readonly registers?: { readonly source: OwnershipRegister; readonly destination: OwnershipRegister };
  readonly sourceVm?: (vm: SourceVm) => SourceVm;
  readonly destinationVm?: (vm: DestinationVm) => DestinationVm;
  readonly wrapBackend?: (backend: HypervisorBackend) => HypervisorBackend;
  readonly hooks?: DestinationHooks;
  readonly hookMsMax?: number;
}

export const mebibyte = 1 << 20;

/** A simulated VM with two disks of odd sizes and a guest that writes everywhere. */
export function busyVm(environment: VirtualEnvironment, { seed = 1, idle = false } = {}): MemoryVm {
  const vm = createMemoryVm({
    environment,
    vmId: 'vm-1',
    memoryBytes: 8 * mebibyte,
    disks: [
      { id: 'disk0', sizeBytes: 12 * mebibyte + 512, allocatedFraction: 0.5 },
      { id: 'disk1', sizeBytes: 3 * mebibyte },
    ],
    seed,
  });
  if (!idle) {
    vm.startWorkload(
      randomWriter({ disk: 'disk0', bytes: 8192, writesPerSecond: 400, hotBytes: 4 * mebibyte }),
    );
    vm.startWorkload(sequentialWriter({ disk: 'disk1', bytes: 65536, bytesPerSecond: 4 * mebibyte }));
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 4 * mebibyte, hotBytes: 2 * mebibyte }));
  }
  return vm;
}

/** Wraps an object: what `changes` has replaces what it had, everything else goes through to it. */
export function withChanges<T extends object>(object: T, changes: Partial<T>): T {
  return new Proxy(object, {
    get(inner, key) {
      if (Object.hasOwn(changes, key)) return changes[key as keyof T];
      const value = Reflect.get(inner, key, inner) as unknown;
      return typeof value === 'function' ? value.bind(inner) : value;
    },
  });
}

export function createWorld(options: WorldOptions = {}): World {
  const environment = options.environment ?? createVirtualEnvironment();
  const vm = options.vm ?? busyVm(environment, { idle: options.idle ?? false });
  const backend = createMemoryBackend({ environment, disks: options.disks ?? [] });
  const link = memoryLink({ rttMs: 2, rateMbit: 2000, ...options.link, environment });
  const registers = options.registers ?? { source: memoryRegister(), destination: memoryRegister() };
  let comparison: VmComparison | undefined;
  const comparing: HypervisorBackend = withChanges<HypervisorBackend>(backend, {
    prepare: async (description, call) => {
      const prepared = await backend.prepare(description, call);
      const destinationVm = options.destinationVm?.(prepared) ?? prepared;
      return withChanges<DestinationVm>(destinationVm, {
        start: async ({ run }) => {
          await destinationVm.start({ run: false });
          const started = backend.vm;
          if (started === undefined) throw new Error('the backend started nothing');
          comparison = compareVms(vm, started);
          if (run) started.run();
        },
      });
    },
  });
  const source = createSource({
    vm: options.sourceVm?.(vm.source()) ?? vm.source(),
    transport: options.transport?.(link.source) ?? link.source,
    register: registers.source,
    policy: { connectMsMax: 5000, decideMsMax: 1000, ...options.policy },
    environment,
  });
  const destination = createDestination({
    backend: options.wrapBackend?.(comparing) ?? comparing,
    transport: options.transport?.(link.destination) ?? link.destination,
    register: registers.destination,
    environment,
    ...(options.hooks === undefined ? {} : { hooks: options.hooks }),
    ...(options.hookMsMax === undefined ? {} : { hookMsMax: options.hookMsMax }),
  });
  const both =
    (how: 'run' | 'rehearse'): World['run'] =>
    async (signals = {}) => {
      const [sourceReport, destinationReport] = await environment.run(
        Promise.all([
          source[how]({ signal: signals.source }),
          destination.run({ signal: signals.destination }),
        ]),
      );
      return { source: sourceReport, destination: destinationReport };
    };
  return {
    environment,
    vm,
    backend,
    link,
    registers,
    comparison: () => comparison,
    source,
    destination,
    run: both('run'),
    rehearse: both('rehearse'),
  };
}
