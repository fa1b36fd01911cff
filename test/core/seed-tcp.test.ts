/**
 * Goal: over sockets, too, a migration that failed is started again at little cost. Method: a VM in memory
 * and TCP on this machine; the first attempt ends in the middle of its disk, and the second one finds what it
 * left.
 */
import { expect, test } from 'vitest';
import {
  compareVms,
  createMemoryBackend,
  createMemoryDisk,
  createMemoryVm,
  randomWriter,
} from '../../src/backends/memory/index.ts';
import { createDestination, createSource, type MigrationPolicy, memoryRegister } from '../../src/index.ts';
import { tcp } from '../../src/transports/index.ts';

const mebibyte = 1 << 20;
const sizeBytes = 64 * mebibyte;
const hotBytes = 2 * mebibyte;

test('a second attempt over TCP sends what the first one did not', { timeout: 120_000 }, async () => {
  const registers = { source: memoryRegister(), destination: memoryRegister() };
  const disk = createMemoryDisk({ id: 'disk0', sizeBytes });
  const backend = createMemoryBackend({ disks: [disk], startPaused: true });
  const vm = createMemoryVm({
    vmId: 'vm-1',
    memoryBytes: mebibyte,
    disks: [{ id: 'disk0', sizeBytes, allocatedFraction: 1 }],
  });
  vm.startWorkload(randomWriter({ disk: 'disk0', bytes: 8192, writesPerSecond: 100, hotBytes }));

  const attempt = async (policy: MigrationPolicy, endAtBytes = Number.POSITIVE_INFINITY) => {
    const listening = tcp({ listen: { host: '127.0.0.1', port: 0 } });
    const { port } = await listening.listening();
    const connecting = tcp({ connect: { host: '127.0.0.1', port } });
    const register = registers.destination;
    const destination = createDestination({ backend, transport: listening, register });
    const source = createSource({
      vm: vm.source(),
      transport: connecting,
      register: registers.source,
      policy,
    });
    const abort = new AbortController();
    source.on('progress', ({ transferredBytes }) => {
      if (transferredBytes > endAtBytes) abort.abort();
    });
    const [sent] = await Promise.all([source.run({ signal: abort.signal }), destination.run()]);
    await Promise.all([connecting.close(), listening.close()]);
    return sent;
  };

  // 160 Mbit/s: 3 s for the disk.
  const first = await attempt({ rateBytesPerSecondMax: 20 * mebibyte }, sizeBytes / 2);
  expect(first).toMatchObject({ outcome: 'failed', error: { code: 'aborted' } });
  const second = await attempt({ seed: 'compare' });
  expect(second.error).toBeUndefined();
  expect(second.outcome).toBe('completed');
  expect(backend.vm && compareVms(vm, backend.vm).equal).toBe(true);
  expect(second.bytes.unchanged).toBeGreaterThan(sizeBytes / 4);
  expect(second.bytes.disk).toBeLessThan(0.75 * sizeBytes + hotBytes);
  expect(second.bytes.disk + second.bytes.unchanged).toBeGreaterThan(0.99 * sizeBytes);
  vm.destroy();
  backend.vm?.destroy();
});
