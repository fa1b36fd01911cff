/**
 * The disks of a running guest are copied, as they are at one moment, into image files in a new directory;
 * the guest runs on. The guest is simulated, the files are not. `--serve` serves them over NBD as well, until
 * Ctrl-C.
 */
import { mkdtempSync, statSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { createDestination, createSource, memoryLink, memoryRegister } from 'longhaul';
import { createImageBackend } from 'longhaul/images';
import { createMemoryVm, randomWriter } from 'longhaul/memory';

const directory = mkdtempSync(join(tmpdir(), 'longhaul-images-'));
const disks = [{ id: 'vda', sizeBytes: 64 << 20, allocatedFraction: 0.25 }];
const vm = createMemoryVm({ vmId: 'web-1', memoryBytes: 32 << 20, disks });
vm.startWorkload(randomWriter({ disk: 'vda', writesPerSecond: 200, hotBytes: 4 << 20 }));
const link = memoryLink({ rttMs: 20, rateMbit: 1000 });

const source = createSource({
  vm: vm.source(),
  transport: link.source,
  register: memoryRegister(),
  policy: { memory: 'none' },
});
const backend = createImageBackend({
  directory,
  ...(process.argv.includes('--serve') ? { export: { host: '127.0.0.1', port: 0 } } : {}),
});
const destination = createDestination({ backend, transport: link.destination, register: memoryRegister() });

const [report] = await Promise.all([source.run(), destination.run()]);
console.log(`${report.outcome}: the ${report.owner} owns ${report.vmId}, which is ${vm.state}`);
for (const [id, path] of backend.images) {
  const { size, blocks } = statSync(path);
  console.log(`${id} is ${path}: ${size} bytes, of which ${512 * blocks} are allocated`);
}
process.exitCode = report.outcome === 'copied' ? 0 : 1;

// A simulated guest lives until it is destroyed, and keeps the process alive, as does an export.
vm.destroy();
if (backend.exported !== undefined) {
  const { exported } = backend;
  console.log('served at', exported.address);
  process.once('SIGINT', () => exported.close());
}
