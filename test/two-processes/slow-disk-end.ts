/**
 * One end of a migration of two disks, as a process of its own. At the destination one of them is slow, and the process is watched until the other one
 * has been there for two seconds; then it is ended.
 */
import { createMemoryBackend, createMemoryVm } from '../../src/backends/memory/index.ts';
import { createDestination, createSource, memoryRegister } from '../../src/index.ts';
import type { BlockDevice } from '../../src/interfaces/block-device.ts';
import { tcp } from '../../src/transports/index.ts';
import { chunksLength } from '../../src/util/chunks.ts';
import { withChanges } from '../support/worlds.ts';

const mebibyte = 1 << 20;
export const sizes = { slow: 512 * mebibyte, fast: 192 * mebibyte };
const slowBytesPerSecond = 5e6;
const linkBytesPerSecond = 100e6;

export interface Watched {
  /** From the first write to the fast disk to the last. */
  readonly fastMs: number;
  /** Written to the slow one when all is over. */
  readonly slowBytes: number;
  /** Of what buffers of the process held, over what they held before the first write. */
  readonly bufferBytesMax: number;
}

const tell = (message: object) =>
  new Promise<void>((resolve) => process.send?.(message, () => resolve()) ?? resolve());

async function destination(): Promise<void> {
  const backend = createMemoryBackend({});
  const enough = new AbortController();
  const written = { slow: 0, fast: 0 };
  let fastSinceMs: number | undefined;
  let fastMs = Number.NaN;
  let baseline = 0;
  let bufferBytesMax = 0;
  const look = (): void => {
    globalThis.gc?.();
    bufferBytesMax = Math.max(bufferBytesMax, process.memoryUsage().arrayBuffers - baseline);
  };
  let due = 0;
  /** Takes as long as such a disk, and forgets what it is told: what is held is then the engine's. */
  const write = async (id: string, bytes: number): Promise<void> => {
    if (id === 'slow') {
      due = Math.max(due, performance.now()) + (1000 * bytes) / slowBytesPerSecond;
      await new Promise((resolve) => setTimeout(resolve, due - performance.now()));
      written.slow += bytes;
      return;
    }
    fastSinceMs ??= performance.now();
    written.fast += bytes;
    if (written.fast < sizes.fast) return;
    fastMs = performance.now() - fastSinceMs;
    setTimeout(() => enough.abort(), 2000);
  };
  const transport = tcp({ listen: { host: '127.0.0.1', port: 0 } });
  const migration = createDestination({
    backend: {
      name: 'watched',
      prepare: async (description, options) => {
        const vm = await backend.prepare(description, options);
        globalThis.gc?.();
        baseline = process.memoryUsage().arrayBuffers;
        const disks = vm.disks.map((disk) =>
          withChanges<BlockDevice>(disk, {
            write: (_offset, content) => write(disk.id, chunksLength(content)),
          }),
        );
        return withChanges(vm, { disks });
      },
    },
    transport,
    register: memoryRegister(),
  });
  await tell(await transport.listening());
  const timer = setInterval(look, 100);
  const report = await migration.run({ signal: enough.signal });
  clearInterval(timer);
  await tell({ code: report.error?.code, fastMs, slowBytes: written.slow, bufferBytesMax });
  backend.vm?.destroy();
  await transport.close();
  process.disconnect();
}

async function source(port: number): Promise<void> {
  const vm = createMemoryVm({
    vmId: 'vm',
    memoryBytes: mebibyte,
    disks: Object.entries(sizes).map(([id, sizeBytes]) => ({ id, sizeBytes, allocatedFraction: 1 })),
  });
  const transport = tcp({ connect: { host: '127.0.0.1', port } });
  const policy = { rateBytesPerSecondMax: linkBytesPerSecond };
  const report = await createSource({
    vm: vm.source(),
    transport,
    register: memoryRegister(),
    policy,
  }).run();
  await tell({ outcome: report.outcome, error: report.error?.message });
  vm.destroy();
  await transport.close();
  process.disconnect();
}

if (process.argv[2] === 'destination') await destination();
else process.once('message', (message: { readonly port: number }) => void source(message.port));
