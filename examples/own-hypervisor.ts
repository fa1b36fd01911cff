/** A guest of the toy hypervisor moves to another toy hypervisor, and finds itself in one piece there. */
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { createDestination, createSource, memoryLink, memoryRegister } from 'longhaul';
import { createToyBackend, toySource } from './toy-backend.ts';
import { ToyVm } from './toy-hypervisor.ts';

const directory = await mkdtemp(join(tmpdir(), 'longhaul-toy-'));
const disk = { path: join(directory, 'source.img'), sizeBytes: 8 << 20 };
const vm = await ToyVm.create({ id: 'toy-1', memoryBytes: 4 << 20, disk });
vm.run();
await delay(100);

const backend = createToyBackend(directory);
const link = memoryLink({ rttMs: 5, rateMbit: 200 });
const source = createSource({
  vm: toySource(vm),
  transport: link.source,
  register: memoryRegister(),
  policy: { downtimeMsMax: 150 },
});
const destination = createDestination({ backend, transport: link.destination, register: memoryRegister() });
source.on('round', ({ round, bytes }) => console.log(`round ${round}: ${bytes / 4096} pages`));

const [sent, received] = await Promise.all([source.run(), destination.run()]);
for (const { role, outcome, error } of [sent, received]) {
  console.log(`${role}: ${outcome}${error === undefined ? '' : ` (${error.code}: ${error.message})`}`);
}

const arrived = sent.outcome === 'completed' ? backend.vm : undefined;
const { steps: stepsMoved } = vm.registers;
await delay(100);
await arrived?.pause();
const intact = arrived !== undefined && (await arrived.check());
const went = arrived !== undefined && arrived.registers.steps > stepsMoved;
console.log(`writes mirrored: ${sent.guestWrites.mirrored}`);
console.log(`the guest is ${intact ? 'in one piece' : 'DAMAGED'}, and ${went ? 'went on' : 'did not go on'}`);
process.exitCode = intact && went ? 0 : 1;

await vm.remove();
await arrived?.remove();
await rm(directory, { recursive: true });
