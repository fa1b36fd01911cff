/**
 * One end of a migration, as a process of its own: `source` or `destination`. It talks to its parent over the
 * channel that `fork` gives it, and ends by saying what its VM holds, as digests.
 */
import { createHash } from 'node:crypto';
import {
  createMemoryBackend,
  createMemoryVm,
  type MemoryVm,
  memoryDirtier,
  randomWriter,
  sequentialWriter,
} from '../../src/backends/memory/index.ts';
import {
  createDestination,
  createSource,
  type MigrationPolicy,
  type MigrationReport,
  memoryRegister,
} from '../../src/index.ts';
import { tcp } from '../../src/transports/index.ts';

/** What the parent tells a source. */
export interface SourceTask {
  readonly port: number;
  readonly memoryBytes: number;
  readonly diskBytes: number;
  /** Default: none. */
  readonly policy?: MigrationPolicy;
  /** Whether its memory is pages that are alike but for their first bytes, rather than noise, and its guest idle. Default false. */
  readonly alike?: boolean;
}

/** What an end tells its parent: first, at a destination, where it listens; at the end, how it went. */
export type EndMessage = { readonly port: number } | { readonly result: EndResult };

export interface EndResult {
  readonly outcome: MigrationReport['outcome'];
  readonly error: string | null;
  readonly phases: readonly string[];
  readonly mirrored: number;
  readonly bytes: MigrationReport['bytes'];
  readonly compression: MigrationReport['compression'] | null;
  readonly totalMs: number;
  readonly downtimeMs: number;
  /** SHA-256 of each memory region and each disk, by name. */
  readonly digests: Readonly<Record<string, string>>;
}

const mebibyte = 1 << 20;
const host = '127.0.0.1';

function tell(message: EndMessage): Promise<void> {
  return new Promise((resolve) => process.send?.(message, () => resolve()));
}

async function digests(vm: MemoryVm): Promise<Record<string, string>> {
  const result: Record<string, string> = {};
  for (const [index, { name, sizeBytes }] of vm.memory.regions.entries()) {
    const hash = createHash('sha256');
    for (let offset = 0; offset < sizeBytes; offset += mebibyte) {
      hash.update(vm.memory.read(index, offset, Math.min(mebibyte, sizeBytes - offset)));
    }
    result[name] = hash.digest('hex');
  }
  for (const disk of vm.disks) {
    const hash = createHash('sha256');
    for (let offset = 0; offset < disk.sizeBytes; offset += mebibyte) {
      const chunks = await disk.read(offset, Math.min(mebibyte, disk.sizeBytes - offset));
      for (const chunk of chunks) hash.update(chunk);
    }
    result[disk.id] = hash.digest('hex');
  }
  return result;
}

async function conclude(report: MigrationReport, phases: readonly string[], vm: MemoryVm | undefined) {
  await tell({
    result: {
      outcome: report.outcome,
      error: report.error?.message ?? null,
      phases,
      mirrored: report.guestWrites.mirrored,
      bytes: report.bytes,
      compression: report.compression ?? null,
      totalMs: report.totalMs,
      downtimeMs: report.downtimeMs,
      digests: vm === undefined ? {} : await digests(vm),
    },
  });
  process.disconnect();
}

function fillAlike(vm: MemoryVm): void {
  const page = Uint8Array.from({ length: 4096 }, (_, at) => at * 7);
  for (const [index, { sizeBytes }] of vm.memory.regions.entries()) {
    for (let offset = 0; offset < sizeBytes; offset += page.byteLength) {
      new DataView(page.buffer).setUint32(0, offset);
      vm.memory.write(index, offset, page);
    }
  }
}

async function source({ port, memoryBytes, diskBytes, policy = {}, alike }: SourceTask): Promise<void> {
  const vm = createMemoryVm({
    vmId: 'big',
    memoryBytes,
    disks: [{ id: 'disk0', sizeBytes: diskBytes, allocatedFraction: 0.9 }],
    seed: 7,
  });
  if (alike === true) {
    fillAlike(vm);
  } else {
    vm.startWorkload(randomWriter({ disk: 'disk0', writesPerSecond: 500, hotBytes: diskBytes / 4 }));
    vm.startWorkload(sequentialWriter({ disk: 'disk0', bytes: 65536, bytesPerSecond: 8 * mebibyte }));
    vm.startWorkload(memoryDirtier({ bytesPerSecond: 20 * mebibyte, hotBytes: memoryBytes / 8 }));
  }
  const transport = tcp({ connect: { host, port } });
  const migration = createSource({ vm: vm.source(), transport, register: memoryRegister(), policy });
  const phases: string[] = [];
  migration.on('phase', (phase) => phases.push(phase));
  await conclude(await migration.run(), phases, vm);
  await transport.close();
}

async function destination(): Promise<void> {
  const backend = createMemoryBackend({ startPaused: true });
  const transport = tcp({ listen: { host, port: 0 } });
  const migration = createDestination({ backend, transport, register: memoryRegister() });
  const phases: string[] = [];
  migration.on('phase', (phase) => phases.push(phase));
  const { port } = await transport.listening();
  await tell({ port });
  await conclude(await migration.run(), phases, backend.vm);
  await transport.close();
}

if (process.argv[2] === 'source') {
  process.once('message', (task) => void source(task as SourceTask));
} else {
  void destination();
}
