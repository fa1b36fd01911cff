/**
 * A simulated guest under load moves over a simulated network, all in this process, with its progress shown.
 * Ctrl-C ends the migration, and the guest runs on at the source. At the end the two VMs are compared, byte
 * for byte.
 */
import { createDestination, createSource, memoryLink, memoryRegister } from 'longhaul';
import {
  compareVms,
  createMemoryBackend,
  createMemoryVm,
  memoryDirtier,
  randomWriter,
} from 'longhaul/memory';

const mebibyte = 1024 * 1024;

const vm = createMemoryVm({
  vmId: 'web-1',
  memoryBytes: 32 * mebibyte,
  disks: [{ id: 'vda', sizeBytes: 64 * mebibyte, allocatedFraction: 0.5 }],
  seed: 1,
});
vm.startWorkload(memoryDirtier({ bytesPerSecond: 4e6, hotBytes: 4 * mebibyte }));
vm.startWorkload(randomWriter({ disk: 'vda', writesPerSecond: 200, hotBytes: 16 * mebibyte }));

// Left paused when it is started: the guest would change what is compared below.
const backend = createMemoryBackend({ startPaused: true });
const link = memoryLink({ rttMs: 20, rateMbit: 400 });

const source = createSource({
  vm: vm.source(),
  transport: link.source,
  register: memoryRegister(),
  policy: { downtimeMsMax: 200, connections: 2 },
});
const destination = createDestination({
  backend,
  transport: link.destination,
  register: memoryRegister(),
});

source.on('progress', ({ phase, bytesPerSecond, streams }) => {
  const done = streams.map(
    ({ name, doneBytes, totalBytes }) => `${name} ${Math.floor((100 * doneBytes) / totalBytes)}%`,
  );
  console.log(`${phase}: ${done.join(', ')}, ${(bytesPerSecond / 1e6).toFixed(0)} MB/s`);
});
source.on('round', ({ round, bytes, decision }) => {
  console.log(`memory round ${round}: ${(bytes / 1e6).toFixed(2)} MB, ${decision}`);
});

const interrupted = new AbortController();
const giveUp = new AbortController();
process.once('SIGINT', () => interrupted.abort());

const arriving = destination.run({ signal: giveUp.signal });
const sent = await source.run({ signal: interrupted.signal });
// A source that ended before it connected leaves a destination that waits.
if (sent.outcome !== 'completed') giveUp.abort();
await arriving;

if (sent.outcome === 'completed' && backend.vm !== undefined) {
  const { equal } = compareVms(vm, backend.vm);
  backend.vm.run();
  console.log(`completed in ${sent.totalMs.toFixed(0)} ms, of which the guest stood still for`);
  console.log(`${sent.downtimeMs.toFixed(0)} ms; memory and disk are ${equal ? 'equal' : 'DIFFERENT'}`);
  process.exitCode = equal ? 0 : 1;
} else {
  console.log(
    `${sent.outcome} (${sent.error?.code}): the ${sent.owner} owns ${sent.vmId}, which is ${vm.state}`,
  );
  process.exitCode = 1;
}

// A simulated guest lives until it is destroyed, and keeps the process alive.
vm.destroy();
backend.vm?.destroy();
