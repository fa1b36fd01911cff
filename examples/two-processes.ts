/**
 * The two ends in two processes, over TCP. The VM is a simulated one; everything else is as it is between two
 * hosts.
 *
 *     two-processes receive      waits for one VM and says on which port
 *     two-processes send PORT    moves a VM there
 *     two-processes              both: the first as a child process
 */
import { fork } from 'node:child_process';
import { mkdtemp, rm } from 'node:fs/promises';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { setTimeout as delay } from 'node:timers/promises';
import { fileURLToPath } from 'node:url';
import { createDestination, createSource, fileRegister } from 'longhaul';
import { createMemoryBackend, createMemoryVm, memoryDirtier, randomWriter } from 'longhaul/memory';
import { tcp } from 'longhaul/tcp';

// Plain TCP neither encrypts nor authenticates: beyond loopback it belongs in a tunnel, or on a network of
// its own.
const host = '127.0.0.1';
const mebibyte = 1024 * 1024;

async function receive(): Promise<void> {
  const transport = tcp({ listen: { host, port: 0 } });
  const backend = createMemoryBackend();
  try {
    const { port } = await transport.listening();
    console.log(`receive: listening on port ${port}`);
    process.send?.(port);
    const report = await withRegister((register) =>
      createDestination({ backend, transport, register }).run(),
    );
    console.log(`receive: ${report.outcome}, the ${report.owner} owns ${report.vmId}`);
    // The guest brought its load along.
    await delay(200);
    const writes = backend.vm?.guest.statistics().writes ?? 0;
    console.log(`receive: its guest is ${backend.vm?.state ?? 'not here'}, and has written ${writes} times`);
    process.exitCode = report.outcome === 'completed' && writes > 0 ? 0 : 1;
  } finally {
    backend.vm?.destroy();
    await transport.close();
  }
}

async function send(port: number): Promise<void> {
  const vm = createMemoryVm({
    vmId: 'web-1',
    memoryBytes: 32 * mebibyte,
    disks: [{ id: 'vda', sizeBytes: 64 * mebibyte, allocatedFraction: 0.5 }],
  });
  vm.startWorkload(memoryDirtier({ bytesPerSecond: 4e6, hotBytes: 4 * mebibyte }));
  vm.startWorkload(randomWriter({ disk: 'vda', writesPerSecond: 200 }));
  const transport = tcp({ connect: { host, port } });
  try {
    const report = await withRegister((register) =>
      createSource({ vm: vm.source(), transport, register }).run(),
    );
    console.log(`send: ${report.outcome}, the ${report.owner} owns ${report.vmId}`);
    if (report.error !== undefined) console.log(`send: ${report.error.code}: ${report.error.message}`);
    if (report.outcome !== 'completed') process.exitCode = 1;
  } finally {
    vm.destroy();
    await transport.close();
  }
}

/** A host keeps its register for as long as it has VMs; this example's is gone with it. */
async function withRegister<T>(work: (register: ReturnType<typeof fileRegister>) => Promise<T>): Promise<T> {
  const directory = await mkdtemp(join(tmpdir(), 'longhaul-register-'));
  try {
    return await work(fileRegister(directory));
  } finally {
    await rm(directory, { recursive: true });
  }
}

async function both(): Promise<void> {
  const receiver = fork(fileURLToPath(import.meta.url), ['receive']);
  const port = new Promise<number>((resolve, reject) => {
    receiver.once('message', (message) => resolve(Number(message)));
    receiver.once('exit', () => reject(new Error('the receiver ended before it listened')));
  });
  const ended = new Promise<number | null>((resolve) => receiver.once('exit', resolve));
  await send(await port);
  if (process.exitCode !== undefined) receiver.kill();
  if ((await ended) !== 0) process.exitCode = 1;
}

const [role, port] = process.argv.slice(2);
if (role === 'receive') await receive();
else if (role === 'send') await send(Number(port));
else await both();
