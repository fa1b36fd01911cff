import { createDestination, createSource, memoryLink, memoryRegister } from 'longhaul';
import { createMemoryBackend, createMemoryVm } from 'longhaul/memory';

const disks = [{ id: 'vda', sizeBytes: 256 << 20, allocatedFraction: 0.25 }];
const vm = createMemoryVm({ vmId: 'web-1', memoryBytes: 64 << 20, disks });
const backend = createMemoryBackend();
const link = memoryLink({ rttMs: 20, rateMbit: 1000 });

const source = createSource({ vm: vm.source(), transport: link.source, register: memoryRegister() });
const destination = createDestination({ backend, transport: link.destination, register: memoryRegister() });
source.on('phase', (phase) => console.log(phase));

const [sent] = await Promise.all([source.run(), destination.run()]);
console.log(`${sent.outcome}: the ${sent.owner} owns ${sent.vmId}; its guest is ${backend.vm?.state} there`);
