/** A small migration in one process and in virtual time, each part of it behind a wrapper with a plan. */
import {
  compareVms,
  createMemoryBackend,
  createMemoryVm,
  type MemoryBackend,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
  type VmComparison,
} from '../../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type MigrationPolicy,
  type MigrationReport,
  memoryLink,
  memoryRegister,
  type OwnershipRegister,
} from '../../../src/index.ts';
import {
  type AnyFault,
  type BackendPlan,
  faultyBackend,
  faultyRegister,
  faultySourceVm,
  faultyTransport,
  type RegisterFault,
  type SourceVmPlan,
  type TransportFault,
} from '../../../src/testing/index.ts';
import { createVirtualEnvironment, type VirtualEnvironment } from '../../support/virtual-environment.ts';

const mebibyte = 1 << 20;

/** What goes wrong at one end. */
export interface Plans {
  readonly vm?: SourceVmPlan;
  readonly backend?: BackendPlan;
  readonly sourceRegister?: readonly RegisterFault[];
  readonly destinationRegister?: readonly RegisterFault[];
  readonly sourceTransport?: readonly TransportFault[];
  readonly destinationTransport?: readonly TransportFault[];
}

/** What became of a migration. */
export interface Result {
  readonly source: MigrationReport;
  readonly destination: MigrationReport;
  /** The VM that was started, paused; undefined if none was. */
  readonly started: MemoryVm | undefined;
  /** The started VM against the one that it came from; undefined if none was started. */
  readonly comparison: VmComparison | undefined;
  /** Every fault, each time that it happened. */
  readonly happened: readonly AnyFault[];
}

/** A VM that writes all the while, and the registers of both ends, for one migration after another. */
export class FaultyWorld {
  readonly environment: VirtualEnvironment = createVirtualEnvironment();
  readonly registers = { source: memoryRegister(), destination: memoryRegister() };
  readonly vm: MemoryVm;
  backend: MemoryBackend | undefined;

  constructor() {
    this.vm = createMemoryVm({
      environment: this.environment,
      vmId: 'vm-1',
      memoryBytes: 4 * mebibyte,
      disks: [
        { id: 'root', sizeBytes: 6 * mebibyte + 512, allocatedFraction: 0.6 },
        { id: 'data', sizeBytes: 2 * mebibyte },
      ],
      seed: 3,
    });
    this.vm.startWorkload(randomWriter({ disk: 'root', bytes: 8192, writesPerSecond: 500 }));
    this.vm.startWorkload(memoryDirtier({ bytesPerSecond: 2 * mebibyte, hotBytes: mebibyte }));
  }

  /** Migrates the VM, with what goes wrong; a guest that arrives stays paused. */
  async migrate(plans: Plans = {}, policy: MigrationPolicy = {}): Promise<Result> {
    const { environment } = this;
    const happened: AnyFault[] = [];
    const options = { environment, onFault: (fault: AnyFault) => happened.push(fault) };
    const link = memoryLink({ rttMs: 4, rateMbit: 1000, environment });
    const backend = createMemoryBackend({ environment, startPaused: true });
    this.backend = backend;
    const register = (inner: OwnershipRegister, plan: readonly RegisterFault[] = []) =>
      faultyRegister(inner, plan, options);
    const source = createSource({
      vm: faultySourceVm(this.vm.source(), plans.vm ?? {}, options),
      transport: faultyTransport(link.source, plans.sourceTransport ?? [], options),
      register: register(this.registers.source, plans.sourceRegister),
      policy: { connectMsMax: 2000, decideMsMax: 1000, stunMsMax: 500, ...policy },
      environment,
    });
    const destination = createDestination({
      backend: faultyBackend(backend, plans.backend ?? {}, options),
      transport: faultyTransport(link.destination, plans.destinationTransport ?? [], options),
      register: register(this.registers.destination, plans.destinationRegister),
      connectMsMax: 3000,
      environment,
    });
    const reports = await environment.run(Promise.all([source.run(), destination.run()]));
    const started = backend.vm;
    const comparison = started && compareVms(this.vm, started);
    await environment.run(Promise.all([link.source.close(), link.destination.close()]));
    return { source: reports[0], destination: reports[1], started, comparison, happened };
  }

  /** What stands in the registers, in short. */
  async claims(end: 'source' | 'destination'): Promise<readonly string[]> {
    const claims = await this.registers[end].read('vm-1');
    // Of one attempt: there is one.
    return claims.filter(({ epoch }) => epoch === claims[0]?.epoch).map(({ value }) => value);
  }
}
