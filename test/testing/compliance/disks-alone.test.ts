/**
 * Goal: a backend that takes nothing but disks is what the engine takes it for. Method: that part of the suite which is about them, over image files of
 * this machine.
 */
import { mkdtemp, open, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as sleep } from 'node:timers/promises';
import { test } from 'vitest';
import { createImageBackend } from '../../../src/backends/images/index.ts';
import { createMemoryVm, randomWriter } from '../../../src/backends/memory/index.ts';
import { type DestinationFixture, disksAloneCompliance } from '../../../src/testing/index.ts';

const mebibyte = 1 << 20;

async function destination(): Promise<DestinationFixture> {
  const directory = await mkdtemp(join(tmpdir(), 'longhaul-images-'));
  const backend = createImageBackend({ directory });
  return {
    backend,
    runState: async () => 'none',
    handedOver: async (id, offset, length) => {
      const path = backend.images.get(id);
      if (path === undefined) throw new Error(`${id} was not handed over`);
      await using file = await open(path);
      const { buffer, bytesRead } = await file.read(Buffer.alloc(length), 0, length, offset);
      return buffer.subarray(0, bytesRead);
    },
    close: () => rm(directory, { recursive: true }),
  };
}

disksAloneCompliance({
  test,
  create: async () => {
    const vm = createMemoryVm({
      vmId: 'vm',
      memoryBytes: mebibyte,
      disks: [
        { id: 'root', sizeBytes: 3 * mebibyte + 512, allocatedFraction: 0.7 },
        { id: 'data', sizeBytes: 777, allocatedFraction: 1, tap: 'extents' },
      ],
    });
    vm.startWorkload(randomWriter({ disk: 'root', bytes: 4096, writesPerSecond: 500 }));
    vm.startWorkload(randomWriter({ disk: 'data', bytes: 10, writesPerSecond: 500 }));
    return {
      source: async () => vm.source(),
      control: {},
      destination,
      settle: () => sleep(20),
      close: async () => vm.destroy(),
    };
  },
});
